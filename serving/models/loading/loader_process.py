"""The loader process: chooses the candidate of a version while other versions serve.

It is short-lived and runs at the lowest priority. Checksums, gates, self-checks, compiling and
timing happen in it, so that they neither take the cores from calls, nor hold the GIL, nor leave
memory behind; a runtime that crashes there harms nobody. The server then opens the one candidate
that was chosen, from the cache of compiled networks.
"""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from serving.base.errors import ModelLoadError, Told, restored, told
from serving.base.metrics import EngineMetrics
from serving.engines import Engine, loaded_facts
from serving.models.loading.candidates import Candidate, LoadSettings
from serving.models.loading.choice import Decision
from serving.models.loading.helper import Bounds, Helper, HelperFailed, report
from serving.models.loading.version import VersionLoader
from serving.repository.config_tensors import FileFacts
from serving.repository.model_config import ModelConfig

# Seconds after which a loader process counts as hung. A load takes seconds, one that TensorRT's
# provider compiles for takes minutes; beside neighbours who want every core each may take thirty
# times as long. Less would end such loads, more lets the next load wait longer for one that hangs.
_SECONDS = 1800.0
# Bytes that stay free beside it. More fails loads on small machines, less may have calls meet the
# limit of the container before its memory is looked at again.
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Outcome:
    """The answer of a loader process.

    decision: None where no candidate can be served; `error` then says why.
    failures: the variant of each self-check that failed.
    """

    decision: Decision | None
    error: Told | None
    failures: tuple[str, ...]


_CONFIG: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)
_FACTS: TypeAdapter[FileFacts] = TypeAdapter(FileFacts)


T = TypeVar("T")


class LoaderProcesses:
    """Starts loader processes, and ends them with the server."""

    def __init__(self, settings: LoadSettings, metrics: EngineMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._lock = threading.Lock()
        self._running: set[Helper] = set()
        self._stopped = False

    def choose(self, path: Path, config: ModelConfig, version: int) -> Decision:
        """The choice for NAME/<version>. Blocking. Raises ModelLoadError, also where the process
        crashes, hangs or is ended."""
        answer = self._run(
            f"{path}/{version}",
            "choose",
            path=path,
            config=_CONFIG.dump_json(config).decode(),
            version=version,
            settings=asdict(self._settings),
        )
        outcome = _understood(_OUTCOME, answer, f"{path}/{version}")
        for variant in outcome.failures:
            labels = (config.name, str(version), variant)
            self._metrics.self_check_failures.labels(*labels).inc()
        if outcome.error is not None:
            error = restored(outcome.error)
            raise error if isinstance(error, ModelLoadError) else ModelLoadError(str(error))
        if outcome.decision is None:
            raise ModelLoadError(f"{path}/{version}: the loader process decided nothing")
        return outcome.decision

    def describe(self, file: Path) -> FileFacts:
        """The tensors of a file that only a runtime can read. Blocking. Raises ModelLoadError."""
        return _understood(_FACTS, self._run(str(file), "describe", file=file), str(file))

    def stop(self) -> None:
        """Ends them at once; none starts any more."""
        with self._lock:
            self._stopped = True
            for helper in self._running:
                helper.kill()

    def check(self) -> None:
        """Raises ModelLoadError where they were stopped."""
        if self._stopped:
            raise ModelLoadError("the server stops, and loads nothing more")

    def _run(self, what: str, task: str, **request: Any) -> Any:
        helper = Helper(task, Bounds(_SECONDS, _SPARE_BYTES), **request)
        with self._lock:
            self.check()
            self._running.add(helper)
        try:
            return helper.run()
        except HelperFailed as failure:
            begin = f"{what}: the loader process failed"
            raise ModelLoadError(
                f"{begin}: {failure}", f"{begin}: {failure}\n{failure.detail}"
            ) from failure
        finally:
            with self._lock:
                self._running.discard(helper)


def _understood(adapter: TypeAdapter[T], answer: Any, what: str) -> T:
    try:
        return adapter.validate_python(answer)
    except ValueError as error:
        raise ModelLoadError(
            f"{what}: the loader process sent an answer that cannot be read", str(error)
        ) from error


# In the loader process.


class _Reporting(VersionLoader):
    """Names the candidate that it loads, for whoever finds the process dead."""

    def load(self, candidate: Candidate) -> Engine:
        report(str(candidate))
        return super().load(candidate)


def choose(path: str, config: str, version: int, settings: Mapping[str, Any]) -> Any:
    """An Outcome for NAME/<version>, in values that JSON can hold."""
    cache_dir = settings["cache_dir"]
    given = LoadSettings(**{**settings, "cache_dir": cache_dir and Path(cache_dir)})
    metrics = EngineMetrics()
    decision, error = None, None
    try:
        loader = _Reporting(Path(path), _CONFIG.validate_json(config), version, given, metrics)
        decision = loader.decided(loader.choose())
    except ModelLoadError as problem:
        error = told(problem)
    failures = [
        variant
        for (_, _, variant), count in metrics.self_check_failures.children()
        for _ in range(int(count.value))
    ]
    return _OUTCOME.dump_python(Outcome(decision, error, tuple(failures)), mode="json")


def describe(file: str) -> Any:
    """The FileFacts of a file, in values that JSON can hold. Raises ModelLoadError."""
    report(file)
    return _FACTS.dump_python(loaded_facts(Path(file)), mode="json")
