"""The thread on which versions are loaded, one after the other."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serving.base.errors import ModelLoadError, NotTrusted, quoted
from serving.base.machine.cpu import core_count
from serving.base.machine.priority import engines_give_way
from serving.base.metrics import EngineMetrics
from serving.batching.core_turns import CoreTurns
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.loaded import LoadedVersion
from serving.models.loading.loader_process import LoaderProcesses
from serving.models.loading.version import load_model
from serving.repository.layout import ModelFolder, scan_model
from serving.repository.model_config import ModelConfig

if TYPE_CHECKING:  # it brings cryptography
    from serving.repository.signing.private_copy import SignedVersions

logger = logging.getLogger(__name__)


class LoadThread:
    """Loads one version at a time, since two would distort each other's latencies.

    processes: choose for it, while something serves.
    """

    def __init__(
        self, settings: LoadSettings, metrics: EngineMetrics, signed: "SignedVersions | None" = None
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._signed = signed
        self._turns = CoreTurns(settings.threads or core_count())
        # Engines start their threads here.
        self._thread = ThreadPoolExecutor(1, "load", engines_give_way)
        self.processes = LoaderProcesses(settings, metrics)

    async def load(
        self, folder: ModelFolder, config: ModelConfig, version: int, *, apart: bool
    ) -> LoadedVersion:
        """Loads NAME/<version>. apart: a loader process chooses. Raises ModelLoadError."""
        work = partial(self._load, folder, config, version, apart=apart)
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except ModelLoadError:
            raise
        except Exception as problem:  # a broken file must not take the other models with it
            # Where memory runs out says nothing: the line that follows has the size and the shape.
            if not isinstance(problem, MemoryError):
                logger.error("loading failed", extra={"model": folder.name}, exc_info=problem)
            where = f"{folder.path}/{version}"
            raise ModelLoadError(f"{where}: {type(problem).__name__}: {problem}") from problem
        if self._signed is not None:  # its key may have lost its trust meanwhile
            try:
                self._signed.require(loaded.facts.signed_by, folder.name, version)
            except NotTrusted:
                await asyncio.to_thread(loaded.close)
                raise
        return loaded

    def _load(
        self, folder: ModelFolder, config: ModelConfig, version: int, *, apart: bool
    ) -> LoadedVersion:
        self.processes.check()
        if self._signed is not None:
            return self._load_signed(self._signed, folder, config, version, apart=apart)
        loaded = self._load_from(folder.path, config, version, apart=apart)
        # What was opened here has to be what was checked there.
        if apart and scan_model(folder.path).versions.get(version) != folder.versions[version]:
            loaded.close()
            raise ModelLoadError(f"{folder.path}/{version}: its files changed while it was loaded")
        return loaded

    def _load_signed(
        self,
        signed: "SignedVersions",
        folder: ModelFolder,
        config: ModelConfig,
        version: int,
        *,
        apart: bool,
    ) -> LoadedVersion:
        """Loads a private copy. What is told of it names the repository's files."""
        with signed.opened(folder.path, version, config) as copy:
            if copy.passed_over:
                about = {"model": folder.name, "files": quoted(copy.passed_over)}
                logger.warning("files that nobody has signed are passed over", extra=about)
            loaded = self._load_from(copy.path, config, version, apart=apart)
        place, known_as = str(copy.path), str(folder.path)
        rejected = tuple(line.replace(place, known_as) for line in loaded.facts.rejected)
        facts = replace(loaded.facts, rejected=rejected, signed_by=copy.signers)
        anew = partial(signed.has_signed, folder.path / str(version), copy.statement)
        return replace(loaded, facts=facts, is_signed_anew=anew)

    def _load_from(
        self, path: Path, config: ModelConfig, version: int, *, apart: bool
    ) -> LoadedVersion:
        return load_model(
            path,
            config,
            version,
            self._settings,
            self._metrics,
            self._turns,
            partial(self.processes.choose, path, config, version),
            apart=apart,
        )

    async def close(self) -> None:
        """Returns when nothing is loaded any more."""
        self.processes.stop()
        await asyncio.to_thread(self._thread.shutdown, wait=True)
