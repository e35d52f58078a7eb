"""Loads, swaps and retires the models of repositories without losing a call."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from serving.base.errors import InvalidInput, ModelLoadError, ServingError
from serving.base.metrics import EngineMetrics
from serving.base.text import one_line
from serving.engines import loaded_facts
from serving.models.catalogue import ELSEWHERE, Catalogue, ModelEntry, State, VersionEntry
from serving.models.loading.candidates import LoadSettings, is_placed_here
from serving.models.loading.config_completion import Prepared, log_config, prepare
from serving.models.loading.load_thread import LoadThread
from serving.models.loading.loaded import Holding, LoadedVersion, Retiring
from serving.repository.layout import ModelFolder, compare, digest, is_version
from serving.repository.model_config import ModelConfig
from serving.repository.places.repositories import Repositories

if TYPE_CHECKING:  # it brings cryptography
    from serving.repository.signing.private_copy import SignedVersions

logger = logging.getLogger(__name__)

# Names that a server knows, beyond which load calls may bring no new ones: unloaded models stay in
# the index.
_MAX_MODELS = 10_000


class Loader:
    """Keeps a catalogue by loading and unloading the models of repositories. States change on one
    event loop; files are read and written on threads, and loading has a thread of its own."""

    def __init__(
        self,
        repositories: Repositories,
        settings: LoadSettings,
        metrics: EngineMetrics,
        catalogue: Catalogue,
        drain_seconds: float,
        signed: "SignedVersions | None" = None,
    ) -> None:
        """signed: opens versions that have to be signed, and no others are served."""
        self._repositories = repositories
        self._settings = settings
        self._metrics = metrics
        self._catalogue = catalogue
        self._signed = signed
        self._scanned: dict[str, ModelFolder] = {}
        self._held: dict[str, Holding] = {}
        self._thread = LoadThread(settings, metrics, signed)
        self._loads: set[asyncio.Task[None]] = set()
        # One override at a time lies in the temporary folder, which may be small.
        self._staging = asyncio.Lock()
        self._retiring = Retiring(catalogue, drain_seconds)

    # Following the repository.

    async def load_all(self, but: Collection[str] = ()) -> None:
        """Loads all models of the repository `but` some; a model that cannot be loaded is logged
        and passed over. Raises OSError where no repository can be read."""
        self._scanned = await self._repositories.look()
        self._catalogue.show_places(self._repositories)
        if not any(folder.is_model for folder in self._scanned.values()):
            of_one_model = any(is_version(name) for name in self._scanned)
            reason = "versions of one model lie here: give the folder above" if of_one_model else ""
            told = {"repository": str(self._repositories), "reason": reason}
            logger.warning("no model here", extra={key: text for key, text in told.items() if text})
        for name in self._scanned:
            entry = self._holding(name).entry
            if name in but:
                entry.state, entry.problem = State.UNAVAILABLE, "unloaded"
        for name in [name for name in self._scanned if name not in but]:
            await self._load_reporting(name, starting=True)

    async def poll(self) -> None:
        """Scans the repositories once and loads or unloads changed models. Raises OSError."""
        found = await self._repositories.look()
        self._catalogue.show_places(self._repositories)
        changes = compare(self._scanned, found)
        self._scanned = found
        for name in (*changes.added, *changes.changed):
            logger.info("repository changed", extra={"model": name})
            await self._load_reporting(name)
        for name in changes.removed:
            logger.info("model removed from repository", extra={"model": name})
            await self.unload(name)
            self._catalogue.entries.pop(name, None)
            self._held.pop(name, None)

    async def _load_reporting(self, name: str, *, starting: bool = False) -> None:
        folder = self._scanned[name]
        try:
            if folder.path.name != name:  # no call can carry its name, which is escaped
                raise ModelLoadError(folder.problem)
            await self.load(name, starting=starting, fetch=False)
        except ServingError as error:
            reason = error.detail if isinstance(error, ModelLoadError) else str(error)
            logger.error("model not loaded", extra={"model": name, "reason": reason})
            entry = self._holding(name).entry
            if entry.state is State.LOADING:  # it failed before its load began
                entry.state, entry.problem = State.UNAVAILABLE, str(error)
                self._catalogue.changed()

    def _holding(self, name: str) -> Holding:
        """What is loaded of a name, which the catalogue has from now on."""
        holding = self._held.get(name)
        if holding is None:
            entry = self._catalogue.entries.setdefault(name, ModelEntry())
            holding = self._held[name] = Holding(entry)
        return holding

    # Loading.

    async def load(
        self,
        name: str,
        override: Mapping[str, str | bytes] | None = None,
        *,
        starting: bool = False,
        files: str = "",
        fetch: bool = True,
    ) -> None:
        """Loads or reloads a model: new versions come up beside the old ones and then take over.

        A version that fails to load leaves the former one serving. `override` replaces config or
        files until the next load. The load goes on where its caller goes away.

        starting: it is part of a start, which is to be fast. Other loads happen in a loader process
            while something serves.
        files: tells the files of an override from others.
        fetch: what lies behind URLs is fetched before, but for a start.
        Raises ModelNotFound where there is no such folder, InvalidInput for a bad override,
        ModelLoadError where a version could not be loaded.
        """
        if fetch and not starting:
            await self._repositories.fetch(name)
        known = self._catalogue.entries
        if override and name not in known and len(known) >= _MAX_MODELS:
            raise InvalidInput(f"this server has {len(known)} models; no load call may add one")
        work = self._load(name, dict(override or {}), starting=starting, files=files)
        task = asyncio.get_running_loop().create_task(work)
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
        holding = self._held.get(name)
        if holding is None or holding.overridden:
            return
        holding.stamps.clear()
        await self.load(name, fetch=False)

    async def _load(
        self, name: str, override: dict[str, str | bytes], *, starting: bool, files: str
    ) -> None:
        async with self._staging if override else nullcontext():
            strict = self._settings.strict_config
            apart = not starting and bool(self._loaded_versions())
            describe = self._thread.processes.describe if apart else loaded_facts
            read = partial(prepare, strict=strict, signed=self._signed)
            prepared = await asyncio.to_thread(read, self._repositories, name, override, describe)
            try:
                await self._load_prepared(name, prepared, apart=apart, files=files)
            finally:
                # The engines have read its files, or keep them mapped.
                if prepared.staged is not None:
                    await asyncio.to_thread(prepared.staged.close)

    async def _load_prepared(
        self, name: str, prepared: Prepared, *, apart: bool, files: str
    ) -> None:
        holding = self._holding(name)
        entry = holding.entry
        async with holding.lock:
            holding.apart, holding.files = apart, files
            entry.is_model = prepared.folder.is_model
            entry.state = State.UNAVAILABLE
            if isinstance(prepared.config, ModelLoadError):
                entry.problem = str(prepared.config)
                self._catalogue.changed()
                raise prepared.config
            log_config(prepared.config)
            entry.problem = ""
            if not is_placed_here(prepared.config, self._settings):
                for version in list(entry.versions):
                    self._retire(holding, name, version)
                entry.problem = ELSEWHERE
                self._catalogue.changed()
                return
            try:
                await self._bring_up(holding, prepared.folder, prepared.config)
            finally:
                if holding.is_from(prepared.folder):
                    holding.overridden = prepared.staged is not None
            if stale := prepared.folder.stale:
                entry.problem, entry.is_model = one_line(stale), False  # it serves: nobody waits
                self._catalogue.changed()
                raise ModelLoadError(stale)

    async def _bring_up(self, holding: Holding, folder: ModelFolder, config: ModelConfig) -> None:
        selected = config.version_policy.select(list(folder.versions))
        if not selected:
            logger.warning("no version to load", extra={"model": folder.name})
        failures = [
            await self._load_version(holding, folder, config, version) for version in selected
        ]
        failed = [error for error in failures if error is not None]
        if failed and not holding.serving and config.version_policy.latest:
            # None served before: an older version, which other replicas serve, is better than none.
            folder = await self._repositories.with_older(folder)
            older = [v for v in sorted(folder.versions, reverse=True) if v not in selected]
            for version in older:
                if await self._load_version(holding, folder, config, version) is None:
                    break
        if not failed:
            for version in [v for v in holding.entry.versions if v not in selected]:
                self._retire(holding, folder.name, version)
        self._catalogue.changed()
        if len(failed) == 1:
            raise failed[0]
        if failed:
            raise ModelLoadError(
                "; ".join(map(str, failed)), "; ".join(error.detail for error in failed)
            )

    async def _load_version(
        self, holding: Holding, folder: ModelFolder, config: ModelConfig, version: int
    ) -> ModelLoadError | None:
        """Loads one version beside the one that serves, then switches. Returns the error where that
        failed."""
        stamp = (folder.config_stamp, folder.versions[version])
        if holding.stamps.get(version) == stamp:
            return None
        held = holding.entry.versions.setdefault(version, VersionEntry())
        old = holding.serving.get(version)
        if old is None:
            held.state, held.reason = State.LOADING, ""
            self._catalogue.changed()
        try:
            loaded = await self._thread.load(folder, config, version, apart=holding.apart)
        except ModelLoadError as error:
            held.reason = str(error)
            if old is None:
                held.state = State.UNAVAILABLE
                self._metrics.model_ready.labels(folder.name, str(version)).set(0)
            self._catalogue.changed()
            return error
        loaded = loaded.of_files(holding.files or digest(stamp))
        holding.serving[version], holding.stamps[version] = loaded, stamp
        self._take_over(holding.entry, loaded, old)
        return None

    def _take_over(
        self, entry: ModelEntry, loaded: LoadedVersion, old: LoadedVersion | None
    ) -> None:
        facts = loaded.facts
        self._catalogue.serve(entry, facts, loaded.port)
        loaded.show(self._metrics, old)
        self._catalogue.changed()
        # After the change: a front whose engine process this is serves the version before it logs.
        logger.info("model ready", extra=loaded.chosen)
        if old is not None:
            self._retiring.begin(old)

    # Unloading.

    async def unload(self, name: str) -> None:
        """Takes a model out of service at once for new calls, and waits for the accepted ones.

        Raises ModelNotFound.
        """
        entry = self._catalogue.entry(name)
        holding = self._holding(name)
        async with holding.lock:
            retired = [self._retire(holding, name, version) for version in list(entry.versions)]
            entry.state, entry.problem = State.UNAVAILABLE, "unloaded"
            self._catalogue.changed()
        await asyncio.gather(*(task for task in retired if task is not None))

    async def recheck(self) -> None:
        """Takes versions out of service whose keys are not trusted any more; those that a trusted
        one has signed since are loaded anew beside. Tries again what else does not serve."""
        signed = self._signed
        gone, renewed = [], set()
        served = [(held, *one) for held in self._held.values() for one in held.serving.items()]
        for holding, number, loaded in served:
            if signed is None or signed.trusts(loaded.facts.signed_by):
                continue
            if await asyncio.to_thread(loaded.is_signed_anew):
                holding.stamps.pop(number, None)
                renewed.add(loaded.facts.name)
            elif holding.serving.get(number) is loaded:  # at once, whatever is being loaded
                loaded.show_distrusted(holding.entry, self._metrics)
                gone.append((holding, number, loaded))
        self._catalogue.changed()
        for holding, number, loaded in gone:
            async with holding.lock:
                if holding.serving.get(number) is loaded:
                    holding.free(number)
                    self._metrics.model_accuracy.remove(*loaded.labels)
                    self._retiring.begin(loaded)
        for name in list(self._scanned):  # of which a poll meanwhile may have found one gone
            if name in self._scanned and (name in renewed or not self._holding(name).serves_all()):
                await self._load_reporting(name)

    def _retire(self, holding: Holding, name: str, version: int) -> asyncio.Task[None] | None:
        del holding.entry.versions[version]
        holding.stamps.pop(version, None)
        self._metrics.forget(name, str(version))
        loaded = holding.serving.pop(version, None)
        if loaded is None:
            return None
        self._metrics.model_accuracy.remove(*loaded.labels)
        return self._retiring.begin(loaded)

    def stop_loading(self) -> None:
        """Ends the loader process at once, and loads nothing more."""
        self._repositories.close()
        self._thread.processes.stop()

    async def refuse(self) -> None:
        """Fails the calls that wait for a batch with ModelNotReady, and all that come."""
        await asyncio.gather(*(loaded.port.drain(0.0) for loaded in self._loaded_versions()))

    async def close(self) -> None:
        """Drains and frees every model."""
        for load in self._loads:
            load.cancel()
        await self._retiring.close(self._loaded_versions())
        await self._thread.close()

    def _loaded_versions(self) -> list[LoadedVersion]:
        return [loaded for held in self._held.values() for loaded in held.serving.values()]
