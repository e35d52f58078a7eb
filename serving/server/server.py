"""The server process: build, start, serve, drain, stop."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable

from serving.base.counting.sums import Share
from serving.base.counting.totals import Totals
from serving.base.machine.cpu import core_count
from serving.base.machine.files import connections_within, raise_file_limit
from serving.base.machine.nvml import gpus, unavailable_reason, usages
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.base.storage.messages import StorageError
from serving.models.catalogue import Catalogue
from serving.models.workers import Workers
from serving.remote.front.engines import Engines
from serving.remote.front.merged import MergedCatalogue
from serving.remote.front.seats import TooManyEngines, seats
from serving.remote.front.supervisor import Supervisor
from serving.remote.slots import Slots
from serving.repository.places.repositories import Repositories
from serving.server.config import ServerConfig, StartError
from serving.server.runtime import Runtime, followed_keys, repositories_of, settle_process
from serving.server.wires import LAST_SECONDS, Addresses, Wires

logger = logging.getLogger(__name__)

# Never imported here: it needs what the front does without.
ENGINE_MODULE = "serving.server.engine_process"


class Server:
    """Both sides, in one process or with engines in another. It runs on the event loop that is
    current in `start`."""

    def __init__(self, config: ServerConfig) -> None:
        """Raises StartError for files of the settings that cannot be used."""
        self._config = config = _within_file_limit(config)
        settle_process()
        self._workers = Workers(max(2, core_count()))
        metrics = FrontMetrics()
        keys = followed_keys(config, metrics.access_failures)  # those who load follow their own
        if keys is not None and not keys.content:
            raise StartError(f"--require-signature: {config.require_signature} holds no key")
        self._repositories = repositories_of(config)
        self._runtime: Runtime | Supervisor | Engines
        processes: Supervisor | Engines | None = None
        shares: tuple[Share, ...]
        if _apart(config):
            self._runtime = processes = _processes(
                config, self._repositories, self._workers, metrics
            )
            catalogue, shares = processes.catalogue, processes.shares
        else:
            catalogue = Catalogue(self._repositories, self._workers, metrics)
            share = EngineMetrics()
            shares = (share,)
            self._runtime = Runtime(config, catalogue, share)
        self.totals = Totals(metrics, *shares)
        self.totals.watch_gpus(usages)
        self.wires = Wires(config, catalogue, self._runtime.loader, metrics, self.totals, processes)

    async def start(self) -> Addresses:
        """Opens the ports, then begins to load models. Raises StartError."""
        try:
            self._repositories.check()
        except StorageError as error:
            raise StartError(f"--model-repository: {error}") from error
        addresses = await self.wires.start()
        self._runtime.start()
        return addresses

    async def stop(self) -> None:
        """Reports not ready but serves on until callers have left; then finishes the accepted
        calls and closes. This takes drain_seconds at most, even where callers send half a request
        or do not read their answers."""
        end = asyncio.get_running_loop().time() + self._config.drain_seconds
        logger.info("draining", extra={"seconds": self._config.drain_seconds})
        self._runtime.stop_following()
        await self.wires.drain(end)
        # Those that wait still are told so: grpc.stop would cancel them without a reason.
        await self._runtime.refuse()
        await self.wires.close(end)
        await self._runtime.close()
        self._workers.close()
        logger.info("stopped")
        self.wires.flush()

    async def serve(self, listening: Callable[[Addresses], None] | None = None) -> None:
        """Starts, serves until SIGTERM or SIGINT, and stops; a second signal ends the process at
        once. Where work hangs past drain_seconds, the process ends with exit status 1.

        listening: is told the ports once they are open.
        """
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()

        def on_signal() -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)
            stopped.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            addresses = await self.start()
            if listening is not None:
                listening(addresses)
            await stopped.wait()
            _end_after(self._config.drain_seconds + 2 * LAST_SECONDS)
            await self.stop()
        finally:
            await self._runtime.ended()
            for number in (signal.SIGTERM, signal.SIGINT):  # a loop that is closed keeps them
                loop.remove_signal_handler(number)


def _apart(config: ServerConfig) -> bool:
    """Whether engines run in a process of their own."""
    if config.engine_process is None:
        return unavailable_reason() is None
    return config.engine_process


def _processes(
    config: ServerConfig, repositories: Repositories, workers: Workers, metrics: FrontMetrics
) -> Supervisor | Engines:
    """The engine processes. Raises StartError for too many."""
    try:
        found = seats(
            config.engine_processes,
            gpus() if unavailable_reason() is None else (),
            threads=config.threads,
            memory_bytes=config.memory_bytes,
        )
    except TooManyEngines as error:
        raise StartError(f"--engine-processes {config.engine_processes}: {error}") from error
    settings, slots = config.model_dump(mode="json"), Slots(config.memory_bytes)
    if len(found) == 1:
        catalogue = Catalogue(repositories, workers, metrics)
        return Supervisor(ENGINE_MODULE, settings, catalogue, metrics, slots)
    merged = MergedCatalogue(repositories, workers, metrics, [seat.name for seat in found])
    return Engines(ENGINE_MODULE, settings, merged, metrics, slots, found)


def _within_file_limit(config: ServerConfig) -> ServerConfig:
    """The settings with no more connections than the limit of open files allows: each of the two
    ports of callers may take its share, and neither all."""
    wanted = config.max_connections
    files = raise_file_limit()
    found = connections_within(files, wanted, ports=2)
    if found == wanted:
        return config
    logger.warning(
        "fewer connections: the limit of open files is low",
        extra={"max_connections": wanted, "taken": found, "open_files": files},
    )
    return config.model_copy(update={"max_connections": found})


def _end_after(seconds: float) -> None:
    """Ends the process after `seconds`: a batch or a load that hangs in native code cannot be
    interrupted otherwise."""

    def end() -> None:
        logger.error("ended with work under way")
        logging.shutdown()  # which os._exit leaves out
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
