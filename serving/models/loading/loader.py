"""Loads, swaps and retires the models of a repository without losing a call."""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from serving.base.errors import InvalidInput, ModelLoadError, ServingError
from serving.base.machine.cpu import core_count
from serving.base.machine.heap import trim_heap
from serving.base.metrics import Metrics
from serving.batching.core_turns import CoreTurns
from serving.models.catalogue import Catalog, ModelEntry, State, VersionEntry, VersionStatus
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.config_completion import Prepared, prepare
from serving.models.loading.timing_process import time_apart
from serving.models.loading.version import load_model
from serving.models.servable import Servable
from serving.repository.layout import ModelFolder, Stamp, compare, scan
from serving.repository.model_config import ModelConfig

__all__ = ["Registry", "State", "VersionStatus"]

logger = logging.getLogger(__name__)

# Names that a server knows, beyond which load calls may bring no new ones: unloaded models stay in
# the index.
_MAX_MODELS = 10_000


class Registry(Catalog):
    """All models of a repository. States change on one event loop; files are read and written on
    threads, and loading has a thread of its own."""

    def __init__(
        self,
        repository: Path,
        settings: LoadSettings,
        metrics: Metrics,
        decoders: Executor,
        drain_seconds: float,
    ) -> None:
        super().__init__(repository)
        self._repository = repository
        self._settings = settings
        self._metrics = metrics
        self._decoders = decoders
        self._drain_seconds = drain_seconds
        self._turns = CoreTurns(settings.threads or core_count())
        self._scanned: dict[str, ModelFolder] = {}
        # One load at a time, since two would distort each other's latencies.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._loads: set[asyncio.Task[None]] = set()
        # One override at a time lies in the temporary folder, which may be small.
        self._staging = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    # Following the repository.

    async def load_all(self) -> None:
        """Loads all models of the repository; a model that cannot be loaded is logged and passed
        over. Raises OSError where the repository cannot be read."""
        self._scanned = await asyncio.to_thread(scan, self._repository)
        for name in self._scanned:
            self.entries.setdefault(name, ModelEntry())
        for name in self._scanned:
            await self._load_reporting(name)

    async def poll(self) -> None:
        """Scans the repository once and loads or unloads changed models. Raises OSError."""
        found = await asyncio.to_thread(scan, self._repository)
        changes = compare(self._scanned, found)
        self._scanned = found
        for name in (*changes.added, *changes.changed):
            logger.info("repository changed", extra={"model": name})
            await self._load_reporting(name)
        for name in changes.removed:
            logger.info("model removed from repository", extra={"model": name})
            await self.unload(name)
            self.entries.pop(name, None)

    async def _load_reporting(self, name: str) -> None:
        folder = self._scanned[name]
        try:
            if folder.path.name != name:  # no call can carry its name, which is escaped
                raise ModelLoadError(folder.problem)
            await self.load(name)
        except ServingError as error:
            reason = error.detail if isinstance(error, ModelLoadError) else str(error)
            logger.error("model not loaded", extra={"model": name, "reason": reason})
            entry = self.entries.setdefault(name, ModelEntry())
            if entry.state is State.LOADING:  # it failed before its load began
                entry.state, entry.problem = State.UNAVAILABLE, str(error)
                self.changed()

    async def repository_index(self) -> list[VersionStatus]:
        """`index`, and a line for each model that lies in the repository but was never loaded."""
        try:
            folders = await asyncio.to_thread(scan, self._repository)
        except OSError as error:
            logger.error("repository cannot be read", extra={"reason": str(error)})
            folders = {}
        idle = [
            VersionStatus(
                name, "", State.UNKNOWN, self.told(folder.problem), is_model=folder.is_model
            )
            for name, folder in folders.items()
            if name not in self.entries
        ]
        return sorted(self.index() + idle, key=lambda line: line.name)

    # Loading.

    async def load(self, name: str, override: Mapping[str, str | bytes] | None = None) -> None:
        """Loads or reloads a model: new versions come up beside the old ones and then take over.

        A version that fails to load leaves the former one serving. `override` replaces config or
        files until the next load. The load goes on where its caller goes away. Raises ModelNotFound
        where there is no such folder, InvalidInput for a bad override, ModelLoadError where a
        version could not be loaded.
        """
        if override and name not in self.entries and len(self.entries) >= _MAX_MODELS:
            raise InvalidInput(
                f"this server has {len(self.entries)} models; no load call may add one"
            )
        task = asyncio.get_running_loop().create_task(self._load(name, dict(override or {})))
        self._loads.add(task)
        task.add_done_callback(self._loaded)
        await asyncio.shield(task)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        self._loads.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would log it where the caller has gone

    async def reload(self, name: str) -> None:
        """Loads the selected versions again for new plans, although their files are the same. A
        model that serves an override is left alone. Raises the errors of `load`."""
        entry = self.entries.get(name)
        if entry is None or entry.overridden:
            return
        for held in entry.versions.values():
            held.stamp = ((), ())
        await self.load(name)

    async def _load(self, name: str, override: dict[str, str | bytes]) -> None:
        async with self._staging if override else nullcontext():
            strict = self._settings.strict_config
            prepared = await asyncio.to_thread(
                prepare, self._repository, name, override, strict=strict
            )
            try:
                await self._load_prepared(name, prepared)
            finally:
                # The engines have read its files, or keep them mapped.
                if prepared.staged is not None:
                    await asyncio.to_thread(prepared.staged.cleanup)

    async def _load_prepared(self, name: str, prepared: Prepared) -> None:
        entry = self.entries.setdefault(name, ModelEntry())
        async with entry.lock:
            entry.is_model = prepared.folder.is_model
            entry.state = State.UNAVAILABLE
            if isinstance(prepared.config, ModelLoadError):
                entry.problem = str(prepared.config)
                self.changed()
                raise prepared.config
            self._log_config(prepared.config)
            entry.problem = ""
            try:
                await self._bring_up(entry, prepared.folder, prepared.config)
            finally:
                if any(_is_from(prepared.folder, *item) for item in entry.versions.items()):
                    entry.overridden = prepared.staged is not None

    def _log_config(self, config: ModelConfig) -> None:
        for warning in config.warnings:
            logger.warning("config", extra={"model": config.name, "reason": warning})
        if config.completed:
            fields = list(config.completed)
            logger.info("config completed", extra={"model": config.name, "fields": fields})

    async def _bring_up(self, entry: ModelEntry, folder: ModelFolder, config: ModelConfig) -> None:
        selected = config.version_policy.select(list(folder.versions))
        if not selected:
            logger.warning("no version to load", extra={"model": folder.name})
        failures = [
            await self._load_version(entry, folder, config, version) for version in selected
        ]
        failed = [error for error in failures if error is not None]
        if failed and not entry.serves and config.version_policy.latest:
            # No new version can serve and none served before: an older version is better than
            # none, and other replicas still serve it.
            older = [v for v in sorted(folder.versions, reverse=True) if v not in selected]
            for version in older:
                if await self._load_version(entry, folder, config, version) is None:
                    break
        if not failed:
            for version in [v for v in entry.versions if v not in selected]:
                self._retire(entry, folder.name, version)
        self.changed()
        if len(failed) == 1:
            raise failed[0]
        if failed:
            raise ModelLoadError(
                "; ".join(map(str, failed)), "; ".join(error.detail for error in failed)
            )

    async def _load_version(
        self, entry: ModelEntry, folder: ModelFolder, config: ModelConfig, version: int
    ) -> ModelLoadError | None:
        """Loads one version beside the one that serves, then switches. Returns the error where that
        failed."""
        stamp = (folder.config_stamp, folder.versions[version])
        held = entry.versions.setdefault(version, VersionEntry())
        if held.model is not None and held.stamp == stamp:
            return None
        if held.model is None:
            held.state, held.reason = State.LOADING, ""
            self.changed()
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
                partial(time_apart, folder.path, version, self._settings),
            )
        except Exception as problem:  # a broken file must not take the other models with it
            return self._failed(folder, version, held, problem)
        self._take_over(held, model, stamp)
        return None

    def _failed(
        self, folder: ModelFolder, version: int, held: VersionEntry, problem: Exception
    ) -> ModelLoadError:
        error = problem
        if not isinstance(error, ModelLoadError):
            # Where memory runs out says nothing: the line that follows has the size and the shape.
            if not isinstance(problem, MemoryError):
                logger.error("loading failed", extra={"model": folder.name}, exc_info=problem)
            error = ModelLoadError(f"{folder.path}/{version}: {type(error).__name__}: {error}")
        held.reason = str(error)
        if held.model is None:
            held.state = State.UNAVAILABLE
            self._metrics.model_ready.labels(folder.name, str(version)).set(0)
        self.changed()
        return error

    def _take_over(self, held: VersionEntry, model: Servable, stamp: tuple[Stamp, Stamp]) -> None:
        old, held.model = held.model, model
        facts = model.facts
        held.state, held.reason, held.stamp = State.READY, "", stamp
        self._metrics.model_ready.labels(facts.name, facts.version).set(1)
        self._metrics.model_device_memory.labels(facts.name, facts.version).set(facts.device_bytes)
        if old is not None:
            self._metrics.model_accuracy.remove(*_served(old))
        if facts.evidence is not None:
            accuracy = facts.evidence.accuracy.value
            self._metrics.model_accuracy.labels(*_served(model)).set(accuracy)
        logger.info(
            "model ready",
            extra={
                "model": facts.name,
                "version": facts.version,
                "variant": facts.variant,
                "engine": facts.engine_name,
                "not_chosen": list(facts.rejected),
            },
        )
        self.changed()
        if old is not None:
            self._close_later(old)

    # Unloading.

    async def unload(self, name: str) -> None:
        """Takes a model out of service at once for new calls, and waits for the accepted ones.

        Raises ModelNotFound.
        """
        entry = self.entry(name)
        async with entry.lock:
            retired = [self._retire(entry, name, version) for version in list(entry.versions)]
            entry.state, entry.problem = State.UNAVAILABLE, "unloaded"
            self.changed()
        await asyncio.gather(*(task for task in retired if task is not None))

    def _retire(self, entry: ModelEntry, name: str, version: int) -> asyncio.Task[None] | None:
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
        facts = model.facts
        if not await model.drain(self._drain_seconds):
            logger.warning("calls left when drained", extra={"model": facts.name})
        await asyncio.to_thread(model.close)
        # Freed memory of a network lies between other blocks, so the heap would grow by reloads.
        await asyncio.to_thread(trim_heap)
        logger.info("model retired", extra={"model": facts.name, "version": facts.version})

    async def refuse(self) -> None:
        """Fails the calls that wait for a batch with ModelNotReady, and all that come."""
        await asyncio.gather(*(model.drain(0.0) for model in self._models()))

    async def close(self) -> None:
        """Drains and frees every model."""
        for load in self._loads:
            load.cancel()
        await asyncio.gather(*map(self._drain_and_close, self._models()), *self._retiring)
        await asyncio.to_thread(self._loader.shutdown, wait=True)

    def _models(self) -> list[Servable]:
        held = (version for entry in self.entries.values() for version in entry.versions.values())
        return [version.model for version in held if version.model is not None]


def _served(model: Servable) -> tuple[str, str, str, str]:
    """The labels of a model's accuracy gauge: name, version, variant, engine."""
    facts = model.facts
    return facts.name, facts.version, facts.variant, facts.engine_name


def _is_from(folder: ModelFolder, version: int, held: VersionEntry) -> bool:
    """Whether a version serves out of the files of a scanned folder."""
    stamp = (folder.config_stamp, folder.versions.get(version))
    return held.model is not None and held.stamp == stamp
