"""The latencies of candidates: measured here, and kept in the cache."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.base.errors import EngineError, ModelLoadError
from serving.engines import Engine, EngineOptions
from serving.engines.measure import measure_latency, read_cached, write_cached
from serving.models.loading.candidates import Candidate, LoadSettings, latency_key
from serving.models.loading.selfcheck import Published
from serving.models.loading.timing_shapes import (
    Specs,
    are_fixed,
    check_memory,
    given_shapes,
    guessed_shapes,
)
from serving.repository.manifest import Variant
from serving.repository.model_config import ModelConfig

logger = logging.getLogger(__name__)

# Seconds of measuring for each batch size. Longer makes the median steadier, shorter starts a
# repository of many models earlier.
_MEASURE_SECONDS = 0.15


class Latencies:
    """Those of the candidates of one version.

    options: of each candidate, as it is loaded now.
    """

    def __init__(
        self,
        config: ModelConfig,
        published: Published,
        variants: Mapping[str, Variant],
        options: Mapping[Candidate, EngineOptions],
        settings: LoadSettings,
    ) -> None:
        self._config = config
        self._published = published
        self._variants = variants
        self._options = options
        self._settings = settings
        # The guessed inputs with which the first engine ran; the others are timed with the same.
        self._shapes: Specs | None = None

    def known(self, candidate: Candidate) -> dict[int, float]:
        """Seconds by batch size from an earlier start; empty where there is no measurement."""
        file = self.cache_file(candidate)
        return (read_cached(file) if file is not None else None) or {}

    def measure(
        self, candidate: Candidate, engine: Engine, sizes: Sequence[int]
    ) -> dict[int, float]:
        """Seconds by batch size, measured here and cached; empty where no known shape runs. Raises
        ModelLoadError where the shapes of config.pbtxt do not run."""
        found = self._measured(candidate, engine, sizes)
        file = self.cache_file(candidate)
        if file is not None and found:
            write_cached(file, self.known(candidate) | found)
        return found

    def cache_file(self, candidate: Candidate) -> Path | None:
        """The file in which a latency is cached; None for a model file without a checksum."""
        variant = self._variants.get(candidate.variant)
        options = self._options[candidate]
        if variant is None or options.cache_dir is None:
            return None
        key = latency_key(candidate, variant.sha256, options, self._published.timing_key)
        return options.cache_dir / "latency" / f"{key}.json"

    def _measured(
        self, candidate: Candidate, engine: Engine, sizes: Sequence[int]
    ) -> dict[int, float]:
        inputs = engine.inputs
        if self._published.times:
            return self._published.seconds(engine, sizes, _MEASURE_SECONDS)
        if self._config.max_batch_size == 0 or any(s.datatype == "BYTES" for s in inputs):
            return {}
        given = given_shapes(self._config, inputs)
        if given is not None or are_fixed(inputs):
            try:
                return self._seconds(engine, given or inputs, sizes)
            except EngineError as error:
                said = "" if given is None else " with the shapes that config.pbtxt gives"
                raise ModelLoadError(
                    f"{candidate.file}: does not run{said}: {error.detail}"
                ) from error
        reason = ""
        for shapes in guessed_shapes(inputs) if self._shapes is None else [self._shapes]:
            try:
                found = self._seconds(engine, shapes, sizes)
            except EngineError as error:
                reason = error.detail
                continue
            self._shapes = shapes
            return found
        logger.info(
            "not timed: no usual size runs",
            extra={"model": self._config.name, "candidate": str(candidate), "reason": reason},
        )
        return {}

    def _seconds(self, engine: Engine, shapes: Specs, sizes: Sequence[int]) -> dict[int, float]:
        """Seconds by batch size. Raises EngineError."""
        check_memory(shapes, max(sizes), self._settings.memory_bytes)
        milliseconds = measure_latency(engine, shapes, sizes, _MEASURE_SECONDS)
        return {size: value / 1e3 for size, value in milliseconds.items()}
