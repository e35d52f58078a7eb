"""The side that loads models and batches their calls."""

import asyncio
import contextlib
import logging

from serving.base.metrics import EngineMetrics
from serving.models.catalogue import Catalogue
from serving.models.loading.candidates import LoadSettings, open_cache
from serving.models.loading.loader import Loader
from serving.models.loading.plan_builder import PlanBuilding
from serving.server.config import ServerConfig

logger = logging.getLogger(__name__)


class Runtime:
    """Follows the repository, and keeps a catalogue by it."""

    def __init__(self, config: ServerConfig, catalogue: Catalogue, metrics: EngineMetrics) -> None:
        self._config = config
        self._catalogue = catalogue
        self._cache_dir = open_cache(config.cache_dir)
        self.loader = Loader(
            config.model_repository,
            LoadSettings(
                engine=config.engine,
                variant=config.variant,
                threads=config.threads,
                cache_dir=self._cache_dir,
                allow_ungated=config.allow_ungated,
                build_plans=config.build_plans,
                strict_config=config.strict_config,
                max_image_pixels=config.max_image_pixels,
                memory_bytes=config.memory_bytes,
            ),
            metrics,
            catalogue,
            config.drain_seconds,
        )
        self._background: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to load models."""
        self._background.append(asyncio.create_task(self._follow_repository()))
        if self._config.build_plans and self._cache_dir is not None:
            repository = self._config.model_repository
            building = PlanBuilding(self._catalogue, self.loader, repository, self._cache_dir)
            self._background.append(asyncio.create_task(building.run()))

    async def _follow_repository(self) -> None:
        """Loads the models in the repository; with --model-control poll follows its changes."""
        if self._config.model_control == "explicit":
            return
        look = self.loader.load_all
        while True:
            try:
                await look()
            except OSError as error:
                logger.error("repository cannot be read", extra={"reason": str(error)})
            if self._config.model_control != "poll":
                return
            look = self.loader.poll
            await asyncio.sleep(self._config.poll_seconds)

    def stop_following(self) -> None:
        """Leaves everything as it stands from now on; what serves goes on serving."""
        for task in self._background:
            task.cancel()

    async def ended(self) -> None:
        """Returns when nothing runs in the background any more."""
        self.stop_following()
        for task in self._background:
            with contextlib.suppress(asyncio.CancelledError):
                await task
