"""The side that loads models and batches their calls."""

import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from serving.base.counting.sums import Tally
from serving.base.machine.cpu import core_count
from serving.base.machine.heap import limit_arenas, map_large_blocks
from serving.base.metrics import EngineMetrics
from serving.base.storage.address import is_url
from serving.models.catalogue import Catalogue
from serving.models.loading.candidates import LoadSettings, open_cache
from serving.models.loading.loader import Loader
from serving.models.loading.plan_builder import PlanBuilding
from serving.repository.places.repositories import Repositories
from serving.repository.places.state import Cache
from serving.server.access.followed import Followed
from serving.server.config import ServerConfig, StartError

if TYPE_CHECKING:  # they bring cryptography
    from serving.repository.signing.keys import Keys
    from serving.repository.signing.private_copy import SignedVersions

logger = logging.getLogger(__name__)


# sys.setswitchinterval, seconds: how long a thread that loads a model may keep the GIL from the
# event loop. A call takes the GIL several times, so Python's default of 5 ms shows in latencies.
_SWITCH_SECONDS = 5e-4
# gc.set_threshold, objects: more makes collections rarer. A call holds a few hundred objects and
# leaves hardly any cycles, so Python's default of 700 collects every few calls for nothing.
_COLLECT_AFTER = 7000
# Seconds between two looks at the keys of signatures. Longer costs less and follows later.
_LOOK_SECONDS = 1.0


def settle_process() -> None:
    """Settings of a whole process. To be called before threads start."""
    limit_arenas(max(2, core_count()))
    map_large_blocks()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # collections skip the imported objects, which stay anyway
    gc.set_threshold(_COLLECT_AFTER)


def followed_keys(config: ServerConfig, failures: Tally) -> "Followed[Keys] | None":
    """The keys of --require-signature; None where no model has to be signed. Raises StartError."""
    if config.require_signature is None:
        return None
    from serving.server.access.signers import followed_signers

    return followed_signers(config.require_signature, failures)


def repositories_of(config: ServerConfig, metrics: EngineMetrics | None = None) -> Repositories:
    """The repositories. metrics: of the process that fetches what lies behind URLs. Raises
    StartError where there is no cache for that."""
    cache = None
    if urls := [address for address in config.model_repository if is_url(address)]:
        folder = open_cache(config.cache_dir)
        if folder is None:
            raise StartError(f"--model-repository: {urls[0]} needs a --cache-dir of its own")
        limit, seconds = config.repository_cache_mib << 20, config.repository_timeout_seconds
        cache = Cache(folder / "repositories", limit, seconds)
    return Repositories.of(*config.model_repository, cache=cache, metrics=metrics)


class Runtime:
    """Follows the repositories, and keeps a catalogue by it.

    looked: set once it has tried to load each model that was here then.
    """

    def __init__(
        self,
        config: ServerConfig,
        catalogue: Catalogue,
        metrics: EngineMetrics,
        gpus: tuple[int, ...] | None = None,
        gpu_count: int = 0,
    ) -> None:
        """gpus, gpu_count: as LoadSettings have them. Raises StartError for keys that cannot be
        used."""
        self._config = config
        self._catalogue = catalogue
        self._cache_dir = open_cache(config.cache_dir)
        self._keys = followed_keys(config, metrics.access_failures)
        self._signed = self._signed_versions(metrics.signature_refusals)
        self._repositories = repositories_of(config, metrics)
        self.loader = Loader(
            self._repositories,
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
                gpus=gpus,
                gpu_count=gpu_count,
            ),
            metrics,
            catalogue,
            config.drain_seconds,
            self._signed,
        )
        self._shared = gpus is not None
        self.looked = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    def _signed_versions(self, refusals: Tally) -> "SignedVersions | None":
        keys = self._keys
        if keys is None:
            return None
        from serving.repository.signing.private_copy import SignedVersions

        return SignedVersions(lambda: keys.content, self._cache_dir, refusals)

    def start(self, but: Collection[str] = ()) -> None:
        """Begins to load models, `but` those."""
        self._run(self._follow_repository(but))
        if self._keys is not None:
            self._run(self._follow_keys(self._keys))
        if self._config.build_plans and self._cache_dir is not None:
            places = self._repositories
            building = PlanBuilding(
                self._catalogue,
                self.loader,
                places,
                self._cache_dir,
                self._signed,
                shared=self._shared,
            )
            self._run(building.run())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _follow_repository(self, but: Collection[str]) -> None:
        """Loads the models in the repositories; with --model-control poll follows their changes.
        Otherwise that ends once all that lies behind URLs is here."""
        if self._config.model_control == "explicit":
            self.looked.set()
            await self._repositories.fetch(contents=False)
            self._catalogue.show_places(self._repositories)
            return
        look: Callable[[], Awaitable[None]] = partial(self.loader.load_all, but)
        while True:
            try:
                await look()
            except OSError as error:
                logger.error("repository cannot be read", extra={"reason": str(error)})
            self.looked.set()
            if self._config.model_control != "poll" and self._repositories.is_whole():
                return
            look = self.loader.poll
            await self._repositories.next_look(self._config.poll_seconds)

    async def _follow_keys(self, keys: "Followed[Keys]") -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            take = await asyncio.to_thread(keys.follow)
            if take is not None:
                take()
                # Beside this, since it may load: a key that is withdrawn meanwhile waits for none.
                self._run(self.loader.recheck())

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
        for task in list(self._background):
            with contextlib.suppress(asyncio.CancelledError):
                await task
