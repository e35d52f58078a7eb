"""The thread on which versions are loaded, one after the other."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from serving.base.errors import ModelLoadError
from serving.base.machine.cpu import core_count
from serving.base.metrics import EngineMetrics
from serving.batching.core_turns import CoreTurns
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.loaded import LoadedVersion
from serving.models.loading.loader_process import LoaderProcesses
from serving.models.loading.version import load_model
from serving.repository.layout import ModelFolder, scan_model
from serving.repository.model_config import ModelConfig

logger = logging.getLogger(__name__)


class LoadThread:
    """Loads one version at a time, since two would distort each other's latencies.

    processes: choose for it, while something serves.
    """

    def __init__(self, settings: LoadSettings, metrics: EngineMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._turns = CoreTurns(settings.threads or core_count())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self.processes = LoaderProcesses(settings, metrics)

    async def load(
        self, folder: ModelFolder, config: ModelConfig, version: int, *, apart: bool
    ) -> LoadedVersion:
        """Loads NAME/<version>. apart: a loader process chooses. Raises ModelLoadError."""
        work = partial(self._load, folder, config, version, apart=apart)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except ModelLoadError:
            raise
        except Exception as problem:  # a broken file must not take the other models with it
            # Where memory runs out says nothing: the line that follows has the size and the shape.
            if not isinstance(problem, MemoryError):
                logger.error("loading failed", extra={"model": folder.name}, exc_info=problem)
            where = f"{folder.path}/{version}"
            raise ModelLoadError(f"{where}: {type(problem).__name__}: {problem}") from problem

    def _load(
        self, folder: ModelFolder, config: ModelConfig, version: int, *, apart: bool
    ) -> LoadedVersion:
        self.processes.check()
        loaded = load_model(
            folder.path,
            config,
            version,
            self._settings,
            self._metrics,
            self._turns,
            partial(self.processes.choose, folder.path, config, version),
            apart=apart,
        )
        # What was opened here has to be what was checked there.
        if apart and scan_model(folder.path).versions.get(version) != folder.versions[version]:
            loaded.close()
            raise ModelLoadError(f"{folder.path}/{version}: its files changed while it was loaded")
        return loaded

    async def close(self) -> None:
        """Returns when nothing is loaded any more."""
        self.processes.stop()
        await asyncio.to_thread(self._thread.shutdown, wait=True)
