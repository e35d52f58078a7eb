"""Makes a LoadedVersion from a version folder: reads, chooses, checks and times it. Blocking."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from serving.base.errors import (
    EngineError,
    EngineUnavailable,
    InvalidManifest,
    ModelLoadError,
    SelfCheckFailed,
)
from serving.base.metrics import EngineMetrics
from serving.base.text import summary
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreTurns
from serving.batching.latency import LatencyTable
from serving.engines import ENGINES, Engine, load_engine
from serving.models.facts import ModelFacts
from serving.models.loading.candidates import (
    Candidate,
    LoadSettings,
    find_candidates,
    options_for,
)
from serving.models.loading.choice import Choice, Decision, choose
from serving.models.loading.latencies import Latencies
from serving.models.loading.loaded import LoadedVersion
from serving.models.loading.local_plans import check_fits
from serving.models.loading.selfcheck import Published, check_files, check_gate, on_this_machine
from serving.models.loading.timing_shapes import check_memory
from serving.repository.labels import read_labels
from serving.repository.manifest import Evidence, Manifest, Variant, read_manifest
from serving.repository.model_config import ModelConfig, check_against_engine
from serving.repository.model_file import check_model_file

logger = logging.getLogger(__name__)

# Seconds. A batch that was shorter when measured runs inline on the event loop: handing it to a
# thread and back costs about as much, and makes two threads compete for the GIL. Larger lets
# batches block the loop longer, smaller pays for the thread more often.
_INLINE_SECONDS = 2e-4
# Seconds. A network that is faster for its smallest batch gets one thread: a second wakes too late
# to help, then spins, and doubles the CPU of a call.
_LIGHT_SECONDS = 5e-5
# Bytes of the files that are to be timed, above which a loader process chooses even where nothing
# serves. Runtimes keep memory of every network that they have loaded; for smaller files the process
# costs more.
_CHOSEN_APART_BYTES = 8 << 20


class VersionLoader:
    """Loads one version of a model: finds its candidates, checks, loads and times them. It is the
    Loader of `choose`."""

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        version: int,
        settings: LoadSettings,
        metrics: EngineMetrics,
    ) -> None:
        """Reads NAME/<version>. Raises ModelLoadError naming the file and its fault."""
        self._path = path
        self._folder = folder = path / str(version)
        self._config = config
        self._version = str(version)
        self._settings = settings
        self._metrics = metrics
        manifest = read_manifest(folder)
        if manifest is None and not settings.allow_ungated:
            raise InvalidManifest(
                f"{folder}: no manifest.json, so nothing says how accurate it is; "
                "--allow-ungated serves it all the same"
            )
        if manifest is not None:
            rows = config.max_batch_size
            manifest = on_this_machine(folder, manifest, rows, settings.cache_dir)
        self._manifest: Manifest | None = manifest
        self._published = Published(folder, manifest, config, settings.memory_bytes)
        variants = manifest.variants if manifest else ()
        self._variants: dict[str, Variant] = {variant.id: variant for variant in variants}
        found = find_candidates(folder, config, manifest, settings)
        self.candidates = found.found
        self.unusable = found.unusable
        self._options = {c: options_for(c, config, settings) for c in self.candidates}
        self._latencies = Latencies(
            config, self._published, self._variants, self._options, settings
        )
        for name in self._variants:  # so that the counter is there before the first failure
            metrics.self_check_failures.labels(config.name, self._version, name)

    # The steps of a choice.

    def admit(self, candidate: Candidate) -> None:
        """Raises ModelLoadError unless the file may be loaded: it is the version's own, its
        checksum is the published one, it passed its gate, and it fits this machine."""
        if self._manifest is None:
            check_model_file(candidate.file)
            return
        variant = self._variants[candidate.variant]
        check_fits(variant, self._options[candidate].devices)
        with self._counted(candidate):
            check_files(candidate.file, variant)
            if not self._settings.allow_ungated:
                check_gate(variant, candidate.engine)

    def evidence(self, candidate: Candidate) -> Evidence | None:
        """The measurements of a candidate; None where there are none."""
        variant = self._variants.get(candidate.variant)
        return variant.evidence.get(candidate.engine) if variant else None

    def load(self, candidate: Candidate) -> Engine:
        """Admits a candidate, loads it and checks it. Raises ModelLoadError or EngineError."""
        self.admit(candidate)
        engine = load_engine(candidate.engine, candidate.file, self._options[candidate])
        try:
            self._check(candidate, engine)
        except BaseException:
            engine.close()
            raise
        return engine

    def _check(self, candidate: Candidate, engine: Engine, *, briefly: bool = False) -> None:
        check_against_engine(self._config, engine.inputs, engine.outputs, candidate.file)
        options = self._options[candidate]
        rows = options.max_batch_size * (options.instances + (engine.overlap_rows > 0))
        check_memory((*engine.inputs, *engine.outputs), rows, self._settings.memory_bytes)
        if self._manifest is not None:
            variant = self._variants[candidate.variant]
            rows = self._options[candidate].max_batch_size
            with self._counted(candidate):
                self._published.check(variant, engine, rows, briefly=briefly)

    @contextmanager
    def _counted(self, candidate: Candidate) -> Iterator[None]:
        try:
            yield
        except SelfCheckFailed:
            labels = (self._config.name, self._version, candidate.variant)
            self._metrics.self_check_failures.labels(*labels).inc()
            raise

    def known(self, candidate: Candidate) -> dict[int, float]:
        """`Latencies.known`."""
        return self._latencies.known(candidate)

    def measure(
        self, candidate: Candidate, engine: Engine, sizes: Sequence[int]
    ) -> dict[int, float]:
        """`Latencies.measure`."""
        return self._latencies.measure(candidate, engine, sizes)

    # The choice itself.

    def untimed_bytes(self) -> int:
        """Bytes of the files that would be loaded only to be timed: the files of CPU candidates
        without a measurement, where there are several."""
        untimed = [
            c
            for c in self.candidates
            if not self._options[c].devices and self._latencies.cache_file(c) and not self.known(c)
        ]
        # A missing file is refused by name when it is loaded.
        sizes = [c.file.stat().st_size for c in untimed if c.file.exists()]
        return sum(sizes) if len(untimed) > 1 else 0

    def choose(self) -> Choice:
        """The candidate that serves, loaded. Raises ModelLoadError where none can."""
        choice = self._gpu_before_cpu()
        options = self._options[choice.candidate]
        smallest = min(choice.latency.values(), default=_LIGHT_SECONDS)
        if smallest < _LIGHT_SECONDS and options.threads > 1 and not options.devices:
            choice.engine.close()
            self._options[choice.candidate] = replace(options, threads=1)
            alone = choose([choice.candidate], self._sizes(), self)
            choice = replace(alone, rejected=choice.rejected)
        return choice

    def decided(self, choice: Choice) -> Decision:
        """A choice for another process."""
        chosen = choice.candidate
        threads = self._options[chosen].threads
        return Decision(chosen.variant, chosen.engine, threads, choice.latency, choice.rejected)

    def opened(self, decision: Decision) -> Choice:
        """The choice that another process has made and checked, its candidate loaded here. Only the
        tensors and the answer to one sample are checked again. Raises ModelLoadError."""
        wanted = (decision.variant, decision.engine)
        found = [c for c in self.candidates if (c.variant, c.engine) == wanted]
        if not found or not 0 < decision.threads <= self._options[found[0]].threads:
            raise ModelLoadError(f"{self._folder}: {decision} was chosen, and is no candidate here")
        candidate = found[0]
        self._options[candidate] = replace(self._options[candidate], threads=decision.threads)
        engine = load_engine(candidate.engine, candidate.file, self._options[candidate])
        try:
            self._check(candidate, engine, briefly=True)
        except BaseException as error:
            engine.close()
            if isinstance(error, EngineError):
                raise ModelLoadError(f"{candidate.file}: {error.detail}") from error
            raise
        return Choice(candidate, engine, decision.latency, decision.rejected)

    def _gpu_before_cpu(self) -> Choice:
        """The choice among candidates on GPUs, or on the CPU where none of them can serve. The two
        are not timed against each other: that would take minutes, and the cores decode images."""
        on = {
            device: [c for c in self.candidates if ENGINES[c.engine].device == device]
            for device in ("gpu", "cpu")
        }
        if not on["gpu"] or not on["cpu"]:
            return choose(self.candidates, self._sizes(), self)
        try:
            choice = choose(on["gpu"], self._sizes(), self)
            reason = "the CPU is not asked where a GPU serves"
            left_out = tuple(f"{candidate}: {reason}" for candidate in on["cpu"])
        except EngineUnavailable as none_on_gpu:
            left_out = (f"on the GPU, {none_on_gpu.detail}",)
            try:
                choice = choose(on["cpu"], self._sizes(), self)
            except EngineUnavailable as none_on_cpu:
                errors = (none_on_gpu, none_on_cpu)
                raise EngineUnavailable(
                    summary("", [str(error) for error in errors]),
                    detail="; ".join(error.detail for error in errors),
                ) from none_on_cpu
        return replace(choice, rejected=(*choice.rejected, *left_out))

    def _sizes(self) -> list[int]:
        """The batch sizes that are timed: 1, 2, 4 ... max_batch_size."""
        largest = self._config.max_batch_size
        sizes = [2**i for i in range(max(1, largest).bit_length())]
        return sizes if sizes[-1] >= largest else [*sizes, largest]

    # The loaded version.

    def behind_batcher(self, choice: Choice, turns: CoreTurns) -> LoadedVersion:
        """The chosen candidate behind a batcher. Raises ModelLoadError for labels that cannot be
        read."""
        config, options, engine = self._config, self._options[choice.candidate], choice.engine
        batcher = DynamicBatcher(
            engine,
            model=config.name,
            version=self._version,
            max_batch_size=config.max_batch_size,
            batching=config.batching,
            instances=options.instances,
            latency=LatencyTable(choice.latency, self._sizes()),
            metrics=self._metrics,
            turns=turns,
            # Work on a GPU takes no turn on the cores.
            cores=0 if options.devices else options.threads,
            overlap_rows=engine.overlap_rows,
            slo=config.slo,
            inline_seconds=_INLINE_SECONDS,
        )
        facts = ModelFacts(
            config=config,
            version=self._version,
            engine_name=choice.candidate.engine,
            variant=choice.candidate.variant,
            manifest=self._manifest,
            inputs=config.inputs or engine.inputs,
            outputs=config.outputs or engine.outputs,
            output_labels=self.labels(),
            rejected=(*choice.rejected, *self.unusable),
            latency=batcher.latency,
            device_bytes=engine.device_bytes,
            max_image_pixels=self._settings.max_image_pixels,
            file_bytes={name: self._bytes(each) for name, each in self._variants.items()},
        )
        return LoadedVersion(facts, batcher, engine)

    def _bytes(self, variant: Variant) -> int:
        """The size of a variant's files; one that is missing has none."""
        files = [self._folder / name for name in (variant.file, *variant.data)]
        return sum(file.stat().st_size for file in files if file.exists())

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Class names by output. Raises ModelLoadError."""
        return read_labels(self._path, self._config, self._manifest)


def load_model(
    path: Path,
    config: ModelConfig,
    version: int,
    settings: LoadSettings,
    metrics: EngineMetrics,
    turns: CoreTurns,
    decide: Callable[[], Decision] | None = None,
    *,
    apart: bool = False,
) -> LoadedVersion:
    """Loads NAME/<version>.

    decide: has another process choose.
    apart: it is asked in any case; otherwise only where timing the candidates in this process would
        leave much memory behind.
    Raises ModelLoadError naming the file and its fault.
    """
    loader = VersionLoader(path, config, version, settings, metrics)
    loader.labels()
    if decide is not None and (apart or loader.untimed_bytes() > _CHOSEN_APART_BYTES):
        choice = loader.opened(decide())
    else:
        choice = loader.choose()
    try:
        return loader.behind_batcher(choice, turns)
    except BaseException:
        choice.engine.close()
        raise
