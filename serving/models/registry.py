"""Which models serve: by name and version, loaded and swapped without losing a call."""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from serving.base.errors import ModelLoadError, ModelNotFound, ModelNotReady, ServingError
from serving.base.machine.cpu import core_count
from serving.base.machine.heap import trim_heap
from serving.base.metrics import Metrics
from serving.batching.turns import CoreTurns
from serving.models.loading import LoadSettings, load_model
from serving.models.servable import Servable
from serving.models.timing_process import rehearse
from serving.repository.layout import ModelFolder, Stamp, model_names, scan, scan_model
from serving.repository.model_config import ModelConfig, read_model_config
from serving.repository.override import write_override
from serving.repository.watcher import compare

logger = logging.getLogger(__name__)


class State(StrEnum):
    """As RepositoryIndex spells them; UNKNOWN is a model that nobody has asked to load."""

    UNKNOWN = ""
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class VersionStatus:
    """One line of the repository's index; version is empty where a model has none to name."""

    name: str
    version: str
    state: State
    reason: str
    model: Servable | None = None


@dataclass
class _Version:
    state: State = State.LOADING
    reason: str = ""
    stamp: tuple[Stamp, Stamp] = ((), ())
    model: Servable | None = None


@dataclass
class _Entry:
    """A model that the server knows: what is wrong with the folder as a whole, and its versions."""

    state: State = State.LOADING
    problem: str = "waiting to be loaded"
    versions: dict[int, _Version] = field(default_factory=dict)
    staged: "tempfile.TemporaryDirectory[str] | None" = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Registry:
    """All loaded models. Everything but loading itself happens on one event loop."""

    def __init__(
        self,
        repository: Path,
        settings: LoadSettings,
        metrics: Metrics,
        decoders: Executor,
        drain_seconds: float,
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._metrics = metrics
        self._decoders = decoders
        self._drain_seconds = drain_seconds
        self._turns = CoreTurns(settings.threads or core_count())
        self._entries: dict[str, _Entry] = {}
        self._scanned: dict[str, ModelFolder] = {}
        # One at a time: a load measures latencies, which two at once would spoil for each other.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._listeners: list[Callable[[], None]] = []
        self._retiring: set[asyncio.Task[None]] = set()

    # Asking.

    def get(self, name: str, version: str = "") -> Servable:
        """The model of this name; without a version the newest that is ready.

        Raises ModelNotFound, ModelNotReady.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(f"no model {name!r}; this server has {sorted(self._entries)}")
        if not version:
            newest, model = -1, None
            for number, held in entry.versions.items():
                if held.model is not None and number > newest:
                    newest, model = number, held.model
            if model is None:
                raise ModelNotReady(f"model {name!r} is not ready: {self._why(entry)}")
            return model
        asked = entry.versions.get(int(version)) if version.isdecimal() else None
        if asked is None:
            raise ModelNotFound(
                f"model {name!r} has no version {version!r}; "
                f"it has {[str(v) for v in sorted(entry.versions)]}"
            )
        if asked.model is None:
            raise ModelNotReady(
                f"model {name!r} version {version} is not ready: {asked.reason or asked.state}"
            )
        return asked.model

    def _why(self, entry: _Entry) -> str:
        reasons = [entry.problem] if entry.problem else []
        reasons += [f"version {v}: {h.reason or h.state}" for v, h in entry.versions.items()]
        return "; ".join(reasons) or "it has no versions"

    def ready_versions(self, name: str) -> list[str]:
        """Versions of a model that serve now, ascending; empty where there are none."""
        entry = self._entries.get(name)
        versions = sorted(entry.versions.items()) if entry else []
        return [str(v) for v, held in versions if held.model is not None]

    def index(self) -> list[VersionStatus]:
        """Every known version with its state; a model without any has one line of its own."""
        lines = []
        for name, entry in sorted(self._entries.items()):
            for version, held in sorted(entry.versions.items()):
                lines.append(VersionStatus(name, str(version), held.state, held.reason, held.model))
            if entry.problem or not entry.versions:
                problem = entry.problem or "no version folder that the version policy selects"
                lines.append(VersionStatus(name, "", entry.state, problem))
        return lines

    async def repository_index(self) -> list[VersionStatus]:
        """`index`, and a line for each model that lies in the repository but was never loaded."""
        loop = asyncio.get_running_loop()
        try:
            names = await loop.run_in_executor(None, model_names, self._repository)
        except OSError as error:
            logger.error("repository cannot be read", extra={"reason": str(error)})
            names = []
        idle = [
            VersionStatus(name, "", State.UNKNOWN, "")
            for name in names
            if name not in self._entries
        ]
        return sorted(self.index() + idle, key=lambda line: line.name)

    def ready(self, strict: bool) -> bool:
        """At least one model serves and none is loading; when strict, every one serves."""
        lines = self.index()
        if any(line.state is State.LOADING for line in lines):
            return False
        if strict and any(line.state is not State.READY for line in lines):
            return False
        return any(line.state is State.READY for line in lines)

    def stuck(self) -> list[str]:
        """A line for each model with a batch that has been running far beyond any reason."""
        return [
            f"{line.name}/{line.version}: a batch has been running for {seconds:.0f} s"
            for line in self.index()
            if line.model is not None and (seconds := line.model.stuck_for())
        ]

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after every change of a state."""
        self._listeners.append(listener)

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    # Loading.

    async def load_all(self) -> None:
        """Loads everything in the repository; a model that cannot be loaded is reported and passed
        over."""
        self._scanned = scan(self._repository)
        for name in self._scanned:
            self._entries.setdefault(name, _Entry())
        for name in self._scanned:
            await self._load_reporting(name)

    async def poll(self) -> None:
        """Looks at the repository once and follows what has changed there."""
        found = await asyncio.get_running_loop().run_in_executor(None, scan, self._repository)
        changes = compare(self._scanned, found)
        self._scanned = found
        for name in (*changes.added, *changes.changed):
            logger.info("repository changed", extra={"model": name})
            await self._load_reporting(name)
        for name in changes.removed:
            logger.info("model removed from repository", extra={"model": name})
            await self.unload(name)
            self._entries.pop(name, None)

    async def _load_reporting(self, name: str) -> None:
        try:
            await self.load(name)
        except ServingError as error:
            logger.error("model not loaded", extra={"model": name, "reason": str(error)})

    async def load(self, name: str, override: Mapping[str, str | bytes] | None = None) -> None:
        """Loads or reloads a model: new versions come up beside the old ones and then take over.

        `override` replaces its config or files until it is loaded again. Raises ModelNotFound where
        there is no such folder, InvalidInput for a bad override, ModelLoadError where nothing of
        it, or not all of it, could be loaded; what served before goes on serving.
        """
        path = self._repository / name
        plain = bool(name) and "/" not in name and not name.startswith(".")
        brings_files = any(key.startswith("file:") for key in override or ())
        if not plain or not (path.is_dir() or brings_files):
            raise ModelNotFound(f"no folder {name!r} in the model repository {self._repository}")
        staged = None
        if override:
            staged = tempfile.TemporaryDirectory(prefix="convserve-")
            path = write_override(name, override, self._repository, Path(staged.name))
        entry = self._entries.setdefault(name, _Entry())
        async with entry.lock:
            folder = scan_model(path)
            try:
                config = read_model_config(path)
            except ModelLoadError as error:
                entry.state, entry.problem = State.UNAVAILABLE, str(error)
                self._changed()
                raise
            for warning in config.warnings:
                logger.warning("config", extra={"model": name, "reason": warning})
            entry.state, entry.problem = State.UNAVAILABLE, ""
            try:
                await self._bring_up(entry, folder, config)
            finally:
                # What was staged before may go once nothing is loaded from it any more.
                entry.staged, staged = staged, entry.staged

    async def reload(self, name: str) -> None:
        """Loads what is selected anew though its files are the same: what this machine can run of
        them has changed. A model that serves an override is left alone. Raises as load does."""
        entry = self._entries.get(name)
        if entry is None or entry.staged is not None:
            return
        for held in entry.versions.values():
            held.stamp = ((), ())
        await self.load(name)

    async def _bring_up(self, entry: _Entry, folder: ModelFolder, config: ModelConfig) -> None:
        selected = config.version_policy.select(list(folder.versions))
        failures = [
            await self._load_version(entry, folder, config, version) for version in selected
        ]
        failed = [str(error) for error in failures if error is not None]
        if failed and not self._serving(entry) and config.version_policy.latest:
            # Nothing of the newest can serve and nothing served before: an older one is better
            # than none, and what other replicas still serve.
            older = [v for v in sorted(folder.versions, reverse=True) if v not in selected]
            for version in older:
                if await self._load_version(entry, folder, config, version) is None:
                    break
        if not failed:
            for version in [v for v in entry.versions if v not in selected]:
                self._retire(entry, folder.name, version)
        self._changed()
        if failed:
            raise ModelLoadError("; ".join(failed))

    def _serving(self, entry: _Entry) -> bool:
        return any(held.model is not None for held in entry.versions.values())

    async def _load_version(
        self, entry: _Entry, folder: ModelFolder, config: ModelConfig, version: int
    ) -> ModelLoadError | None:
        """Loads one version beside what serves, then switches; the error where that failed."""
        stamp = (folder.config_stamp, folder.versions[version])
        held = entry.versions.setdefault(version, _Version())
        if held.model is not None and held.stamp == stamp:
            return None
        if held.model is None:
            held.state, held.reason = State.LOADING, ""
            self._changed()
        try:
            model = await asyncio.get_running_loop().run_in_executor(
                self._loader,
                load_model,
                folder.path,
                config,
                version,
                self._settings,
                self._metrics,
                self._decoders,
                self._turns,
                partial(rehearse, folder.path, version, self._settings),
            )
        except Exception as problem:  # a broken file must not take the other models with it
            error = problem
            if not isinstance(error, ModelLoadError):
                logger.exception("loading failed", extra={"model": folder.name})
                error = ModelLoadError(f"{folder.path}/{version}: {type(error).__name__}: {error}")
            held.reason = str(error)
            if held.model is None:
                held.state = State.UNAVAILABLE
                self._metrics.model_ready.labels(folder.name, str(version)).set(0)
            self._changed()
            return error
        old, held.model = held.model, model
        held.state, held.reason, held.stamp = State.READY, "", stamp
        self._metrics.model_ready.labels(folder.name, str(version)).set(1)
        memory = self._metrics.model_device_memory.labels(folder.name, str(version))
        memory.set(model.facts.device_bytes)
        if old is not None:
            self._metrics.model_accuracy.remove(*_served(old))
        if model.facts.evidence is not None:
            accuracy = model.facts.evidence.accuracy.value
            self._metrics.model_accuracy.labels(*_served(model)).set(accuracy)
        logger.info(
            "model ready",
            extra={
                "model": model.facts.name,
                "version": model.facts.version,
                "variant": model.facts.variant,
                "engine": model.facts.engine_name,
                "not_chosen": list(model.facts.rejected),
            },
        )
        self._changed()
        if old is not None:
            self._close_later(old)
        return None

    # Unloading.

    async def unload(self, name: str) -> None:
        """Takes a model out of service at once for new calls, and waits for the accepted ones.

        Raises ModelNotFound.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(f"no model {name!r}; this server has {sorted(self._entries)}")
        async with entry.lock:
            retired = [self._retire(entry, name, version) for version in list(entry.versions)]
            entry.state, entry.problem = State.UNAVAILABLE, "unloaded"
            self._changed()
        await asyncio.gather(*(task for task in retired if task is not None))

    def _retire(self, entry: _Entry, name: str, version: int) -> asyncio.Task[None] | None:
        model = entry.versions.pop(version).model
        self._metrics.forget(name, str(version))
        if model is None:
            return None
        self._metrics.model_accuracy.remove(*_served(model))
        return self._close_later(model)

    def _close_later(self, model: Servable) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._drain_and_close(model))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        return task

    async def _drain_and_close(self, model: Servable) -> None:
        if not await model.drain(self._drain_seconds):
            logger.warning("calls left when drained", extra={"model": model.facts.name})
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, model.close)
        # A network's memory lies between other blocks: reload after reload, the heap would grow.
        await loop.run_in_executor(None, trim_heap)
        logger.info(
            "model retired", extra={"model": model.facts.name, "version": model.facts.version}
        )

    async def close(self) -> None:
        """Drains and frees every model."""
        models = [
            held.model
            for entry in self._entries.values()
            for held in entry.versions.values()
            if held.model is not None
        ]
        await asyncio.gather(*(self._drain_and_close(model) for model in models))
        await asyncio.gather(*self._retiring)
        self._loader.shutdown(wait=True)


def _served(model: Servable) -> tuple[str, str, str, str]:
    """The labels under which a model's accuracy is shown."""
    facts = model.facts
    return facts.name, facts.version, facts.variant, facts.engine_name
