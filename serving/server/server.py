"""The server process: build, start, serve, drain, stop."""

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aiohttp import web

from serving.base.machine.cpu import core_count
from serving.base.machine.files import connections_within, raise_file_limit
from serving.base.machine.heap import limit_arenas, map_large_blocks
from serving.base.machine.nvml import usages
from serving.base.memory import MemoryBudget
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.base.totals import Totals
from serving.images import hardware_jpeg
from serving.models.catalogue import Catalogue
from serving.models.loading.candidates import LoadSettings, open_cache
from serving.models.loading.loader import Loader
from serving.models.loading.plan_builder import PlanBuilding
from serving.server.config import ServerConfig, StartError
from serving.server.endpoints.admin import admin_of
from serving.server.endpoints.admin_calls import AdminCalls
from serving.server.endpoints.file_writer import FilesFolder
from serving.server.endpoints.front import Front
from serving.server.endpoints.health import Health
from serving.server.endpoints.inspection import Inspection
from serving.server.endpoints.log_settings import LogSettings
from serving.server.endpoints.oip import OpenInference
from serving.server.endpoints.shared_memory import SharedMemory
from serving.server.endpoints.tracing import Tracer
from serving.server.http.body import LARGEST
from serving.server.http.connections import HttpLimits
from serving.server.http.health import add_batches, add_probes, metrics_app
from serving.server.http.origin import Hosts
from serving.server.http.port import HttpPort
from serving.server.http.rest import RestService
from serving.server.rpc import inference, vision
from serving.server.rpc.health import HealthService
from serving.server.rpc.inference import InferenceService
from serving.server.rpc.port import GrpcPort
from serving.server.rpc.vision import VisionService
from serving.server.sockets import AdminFolder

logger = logging.getLogger(__name__)

_MIB = 1 << 20
# sys.setswitchinterval, seconds: how long a thread that loads a model may keep the GIL from the
# event loop. A call takes the GIL several times, so Python's default of 5 ms shows in latencies.
_SWITCH_SECONDS = 5e-4
# gc.set_threshold, objects: more makes collections rarer. A call holds a few hundred objects and
# leaves hardly any cycles, so Python's default of 700 collects every few calls for nothing.
_COLLECT_AFTER = 7000
# Connections to the metrics port, whose descriptors nobody else can take.
_METRICS_CONNECTIONS = 64
# Seconds without a call after which callers count as gone. Longer misses fewer slow callers, but
# delays the stop of an idle server by as much.
_QUIET_SECONDS = 0.2
# Seconds reserved for closing. Stalled connections are cut this long before the end of the drain,
# and calls get this long even when the drain time is used up: clients retry UNAVAILABLE but not
# CANCELLED. Longer answers more of those calls and cuts stalled connections earlier.
_LAST_SECONDS = 0.5


@dataclass(frozen=True)
class Addresses:
    """The ports on which the server listens, also where the config has 0 for a free one."""

    grpc: int
    http: int
    metrics: int


class Server:
    """The whole server. It runs on the event loop that is current in `start`."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config = _within_file_limit(config)
        self._cache_dir = open_cache(config.cache_dir)
        limit_arenas(max(2, core_count()))
        map_large_blocks()
        sys.setswitchinterval(_SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # collections skip the imported objects, which stay anyway
        gc.set_threshold(_COLLECT_AFTER)
        self._decoders = ThreadPoolExecutor(max(2, core_count()), "decode")
        self._metrics, engine_metrics = FrontMetrics(), EngineMetrics()
        self._totals = Totals(self._metrics, engine_metrics)
        self._totals.watch_gpus(usages)
        self.catalogue = Catalogue(config.model_repository, self._decoders, self._metrics)
        self._loader = Loader(
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
            engine_metrics,
            self.catalogue,
            config.drain_seconds,
        )
        self._budget = MemoryBudget(config.memory_bytes)
        slow_seconds = config.slow_request_ms / 1e3
        self._front = Front(self.catalogue, self._metrics, self._budget, slow_seconds)
        self._health = Health(self.catalogue, strict=config.strict_readiness)
        admin = admin_of(config)
        memory = SharedMemory(config.shared_memory or "")
        files = FilesFolder(config.files_dir)
        self._tracer = Tracer(files, self._metrics.write_failures)
        self._logs = LogSettings(files, self._metrics.write_failures)
        open_inference = OpenInference(memory, self._tracer, admin, config.max_message_mib * _MIB)
        version = importlib.metadata.version("convserve")
        inspection = Inspection(self.catalogue, self._totals, version, shared_memory=admin.memory)
        admin_calls = AdminCalls(
            self.catalogue, self._loader, admin, memory, self._tracer, self._logs
        )
        endpoints = (self._front, open_inference, inspection, admin_calls, self._health)
        self._rest = RestService(
            *endpoints,
            max_json=config.max_json_mib * _MIB,
            timeout_seconds=config.rest_timeout_seconds,
        )
        self._inference = InferenceService(*endpoints)
        self._vision = VisionService(self._front, config.max_message_mib * _MIB)
        self._grpc_health = HealthService(
            self._health, (vision.SERVICE.full_name, inference.SERVICE.full_name)
        )
        self._background: list[asyncio.Task[None]] = []
        self._admin_folder: AdminFolder | None = None

    async def start(self) -> Addresses:
        """Opens the ports, then begins to load models. Raises StartError."""
        repository = self._config.model_repository
        if self._config.hardware_decode:
            reason = hardware_jpeg.enable()
            logger.info("hardware decoding", extra={"enabled": reason is None, "reason": reason})
        if not repository.is_dir():
            raise StartError(f"--model-repository: {repository} is not a folder")
        config = self._config
        services = (self._inference, self._vision, self._grpc_health)
        self._grpc = GrpcPort(config, self._front, self._budget, services)
        http, metrics = self._http = self._http_ports()
        addresses = Addresses(
            grpc=self._grpc.bind(config.host, config.grpc_port),
            http=await http.listen(config.host, config.http_port),
            metrics=await metrics.listen(config.host, config.metrics_port),
        )
        if config.admin != "off":
            self._admin_folder = AdminFolder(config.admin_socket, addresses.grpc)
            with self._admin_folder.binding():
                self._grpc.bind_socket(self._admin_folder.grpc)
                await http.listen_on_socket(self._admin_folder.http)
        await self._grpc.start()
        logger.info(
            "listening",
            extra={
                "host": self._config.host,
                "grpc_port": addresses.grpc,
                "http_port": addresses.http,
                "metrics_port": addresses.metrics,
                "admin_socket": str(self._admin_folder.path) if self._admin_folder else "",
            },
        )
        self._background.append(asyncio.create_task(self._follow_repository()))
        if self._config.build_plans and self._cache_dir is not None:
            building = PlanBuilding(self.catalogue, self._loader, repository, self._cache_dir)
            self._background.append(asyncio.create_task(building.run()))
        return addresses

    def _http_ports(self) -> tuple[HttpPort, HttpPort]:
        """The ports of REST and of the metrics. The latter has few connections and answers also
        while memory is short; a page that calls it by any name learns the metrics at most."""
        config = self._config
        app = web.Application()
        app[LARGEST] = config.max_message_mib * _MIB
        add_probes(app, self._health)
        add_batches(app, self.catalogue)
        self._rest.add_routes(app)
        limits = HttpLimits.of(config)
        few = limits._replace(connections=_METRICS_CONNECTIONS, per_address=_METRICS_CONNECTIONS)
        hosts = Hosts((*config.http_hosts.split(","), config.host))
        return (
            HttpPort("http", app, limits, self._metrics, self._budget, hosts),
            HttpPort(
                "metrics",
                metrics_app(self._totals.registry, self._health),
                few,
                self._metrics,
                None,
            ),
        )

    async def _follow_repository(self) -> None:
        """Loads the models in the repository; with --model-control poll follows its changes."""
        if self._config.model_control == "explicit":
            return
        look = self._loader.load_all
        while True:
            try:
                await look()
            except OSError as error:
                logger.error("repository cannot be read", extra={"reason": str(error)})
            if self._config.model_control != "poll":
                return
            look = self._loader.poll
            await asyncio.sleep(self._config.poll_seconds)

    async def stop(self) -> None:
        """Reports not ready but serves on until callers have left; then finishes the accepted
        calls and closes. This takes drain_seconds at most, even where callers send half a request
        or do not read their answers."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._config.drain_seconds
        logger.info("draining", extra={"seconds": self._config.drain_seconds})
        self._grpc_health.drain()
        for task in self._background:
            task.cancel()
        # Balancers see the change after a moment; closing before that would fail their calls.
        await self._quiet(end - self._config.drain_seconds / 2)
        # grpc.stop cancels calls that it has received but not handed over: answer them first.
        self._front.close()
        await self._quiet(end)
        # Those that wait still are told so: grpc.stop would cancel them without a reason.
        await self._loader.refuse()
        grace = max(_LAST_SECONDS, end - _LAST_SECONDS - loop.time())
        await asyncio.gather(
            self._grpc.stop(grace), *(port.close(grace, _LAST_SECONDS) for port in self._http)
        )
        if self._admin_folder is not None:
            self._admin_folder.close()
        await self._loader.close()
        self._decoders.shutdown(wait=True)
        self._tracer.flush(_LAST_SECONDS)
        logger.info("stopped")
        self._logs.wait(_LAST_SECONDS)

    async def _quiet(self, until: float) -> None:
        """Returns after _QUIET_SECONDS without a call, or at `until` on the loop's clock."""
        loop = asyncio.get_running_loop()
        while loop.time() < until and not self._front.quiet_for(_QUIET_SECONDS):
            await asyncio.sleep(_QUIET_SECONDS / 10)

    async def serve(self) -> None:
        """Starts, serves until SIGTERM or SIGINT, and stops; a second signal ends the process at
        once. Where work hangs past drain_seconds, the process ends with exit status 1."""
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
            await self.start()
            await stopped.wait()
            _end_after(self._config.drain_seconds + 2 * _LAST_SECONDS)
            await self.stop()
        finally:
            for task in self._background:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


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
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
