"""The side that loads models and batches their calls."""

import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from serving.base.machine.cpu import core_count
from serving.base.machine.heap import limit_arenas, map_large_blocks
from serving.base.metrics import EngineMetrics
from serving.models.catalogue import Catalogue
from serving.models.loading.candidates import LoadSettings, open_cache
from serving.models.loading.loader import Loader
from serving.models.loading.plan_builder import PlanBuilding
from serving.server.config import ServerConfig

logger = logging.getLogger(__name__)


# sys.setswitchinterval, seconds: how long a thread that loads a model may keep the GIL from the
# event loop. A call takes the GIL several times, so Python's default of 5 ms shows in latencies.
_SWITCH_SECONDS = 5e-4
# gc.set_threshold, objects: more makes collections rarer. A call holds a few hundred objects and
# leaves hardly any cycles, so Python's default of 700 collects every few calls for nothing.
_COLLECT_AFTER = 7000


def settle_process() -> None:
    """Settings of a whole process. To be called before threads start."""
    limit_arenas(max(2, core_count()))
    map_large_blocks()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # collections skip the imported objects, which stay anyway
    gc.set_threshold(_COLLECT_AFTER)


class Runtime:
    """Follows the repository, and keeps a catalogue by it.

    looked: set once it has tried to load each model.
    """

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
        self.looked = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []

    def start(self, but: Collection[str] = ()) -> None:
        """Begins to load models, `but` those."""
        self._background.append(asyncio.create_task(self._follow_repository(but)))
        if self._config.build_plans and self._cache_dir is not None:
            repository = self._config.model_repository
            building = PlanBuilding(self._catalogue, self.loader, repository, self._cache_dir)
            self._background.append(asyncio.create_task(building.run()))

    async def _follow_repository(self, but: Collection[str]) -> None:
        """Loads the models in the repository; with --model-control poll follows its changes."""
        if self._config.model_control == "explicit":
            self.looked.set()
            return
        look: Callable[[], Awaitable[None]] = partial(self.loader.load_all, but)
        while True:
            try:
                await look()
            except OSError as error:
                logger.error("repository cannot be read", extra={"reason": str(error)})
            self.looked.set()
            if self._config.model_control != "poll":
                return
            look = self.loader.poll
            await asyncio.sleep(self._config.poll_seconds)

    def stop_following(self) -> None:
        """Leaves everything as it stands from now on; what serves goes on serving."""
        for task in self._background:
            task.cancel()
        self.loader.stop_loading()

    async def refuse(self) -> None:
        """Fails the calls that wait for a batch with ModelNotReady, and all that come."""
        await self.loader.refuse()

    async def close(self) -> None:
        """Answers the accepted calls, and frees every model."""
        await self.loader.close()

    async def ended(self) -> None:
        """Returns when nothing runs in the background any more."""
        self.stop_following()
        for task in self._background:
            with contextlib.suppress(asyncio.CancelledError):
                await task
