"""The side that faces callers: ports, and the services behind them."""

import asyncio
import importlib.metadata
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from serving.base.counting.totals import Totals
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.images import hardware_jpeg
from serving.models.catalogue import Catalogue, Loads
from serving.server.access.setup import Access
from serving.server.config import ServerConfig, StartError
from serving.server.console.pages import add_console
from serving.server.endpoints.admin import admin_of
from serving.server.endpoints.admin_calls import AdminCalls
from serving.server.endpoints.file_writer import FilesFolder
from serving.server.endpoints.front import Front
from serving.server.endpoints.health import Health, Processes
from serving.server.endpoints.inspection import Inspection
from serving.server.endpoints.log_settings import LogSettings
from serving.server.endpoints.oip import OpenInference
from serving.server.endpoints.shared_memory import SharedMemory
from serving.server.endpoints.tracing import Tracer
from serving.server.http.body import LARGEST
from serving.server.http.connections import HttpLimits
from serving.server.http.health import MetricsText, add_batches, add_probes, metrics_app
from serving.server.http.origin import Hosts
from serving.server.http.port import HttpPort
from serving.server.http.rest import RestService
from serving.server.http.vision import VisionRest
from serving.server.loop_lag import LoopLag
from serving.server.rpc import health, inference, vision
from serving.server.rpc.health import HealthService
from serving.server.rpc.inference import InferenceService
from serving.server.rpc.reflection import Reflection
from serving.server.rpc.vision import VisionService
from serving.server.sockets import AdminFolder
from serving.server.tls.certificates import Certificates
from serving.server.wire import wire_for
from serving.server.wire.interface import Method

if TYPE_CHECKING:
    from serving.server.telemetry.setup import Telemetry

logger = logging.getLogger(__name__)

_MIB = 1 << 20
# Connections to the metrics port, whose descriptors nobody else can take.
_METRICS_CONNECTIONS = 64
# Seconds without a call after which callers count as gone. Longer misses fewer slow callers, but
# delays the stop of an idle server by as much.
_QUIET_SECONDS = 0.2
# Seconds reserved for closing. Stalled connections are cut this long before the end of the drain,
# and calls get this long even when the drain time is used up: clients retry UNAVAILABLE but not
# CANCELLED. Longer answers more of those calls and cuts stalled connections earlier.
LAST_SECONDS = 0.5


@dataclass(frozen=True)
class Addresses:
    """The ports on which the server listens, also where the config has 0 for a free one."""

    grpc: int
    http: int
    metrics: int


class Wires:
    """All ports over one catalogue.

    loader: loads and unloads for those who may ask for it.
    metrics: counts calls.
    totals: shown to whoever asks for metrics and statistics.
    processes: on which readiness depends too; none beside this one by default.
    """

    def __init__(
        self,
        config: ServerConfig,
        catalogue: Catalogue,
        loader: Loads,
        metrics: FrontMetrics,
        totals: Totals,
        processes: Processes | None = None,
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._metrics = metrics
        self._totals = totals
        self.budget = MemoryBudget(config.memory_bytes)
        self._certificates = Certificates.of(config, metrics)
        slow_seconds = config.slow_request_ms / 1e3
        admin = admin_of(config)
        self._access = Access(config, admin, metrics)
        door = self._access.door
        version = importlib.metadata.version("convserve")
        self._telemetry = _telemetry(metrics, totals, version) if config.otel else None
        tracing = self._telemetry.tracing if self._telemetry is not None else None
        self._front = Front(catalogue, metrics, self.budget, slow_seconds, door, tracing)
        strict = config.strict_readiness
        self._health = Health(
            catalogue,
            strict=strict,
            explicit=config.model_control == "explicit",
            processes=processes,
        )
        memory = SharedMemory(config.shared_memory or "")
        files = FilesFolder(config.files_dir)
        self._tracer = Tracer(files, metrics.write_failures)
        self._logs = LogSettings(files, metrics.write_failures)
        open_inference = OpenInference(
            memory, self._tracer, admin, config.max_message_mib * _MIB, self._front.turns
        )
        inspection = Inspection(catalogue, totals, version, shared_memory=admin.memory)
        admin_calls = AdminCalls(catalogue, loader, admin, memory, self._tracer, self._logs)
        endpoints = (self._front, open_inference, inspection, admin_calls, self._health)
        self._rest = RestService(
            *endpoints,
            max_json=config.max_json_mib * _MIB,
            timeout_seconds=config.rest_timeout_seconds,
        )
        self._vision_rest = VisionRest(
            self._front,
            inspection,
            max_answer=config.max_message_mib * _MIB,
            timeout_seconds=config.rest_timeout_seconds,
        )
        self._inference = InferenceService(*endpoints)
        self._vision = VisionService(self._front, config.max_message_mib * _MIB)
        self._grpc_health = HealthService(
            self._front, self._health, (vision.SERVICE.full_name, inference.SERVICE.full_name)
        )
        self._admin_folder: AdminFolder | None = None
        self._follower: asyncio.Task[None] | None = None
        self._lag = LoopLag(metrics)

    async def start(self) -> Addresses:
        """Opens the ports. Raises StartError."""
        config = self._config
        if config.hardware_decode:
            reason = hardware_jpeg.enable()
            logger.info("hardware decoding", extra={"enabled": reason is None, "reason": reason})
        await self._access.start()
        self._grpc = wire_for(
            config, self.budget, self._front.copies, self._metrics, self._certificates
        )
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
        await self._grpc.start(self._methods())
        if self._certificates is not None:
            self._follower = asyncio.create_task(self._certificates.follow())
        self._lag.start()
        if self._telemetry is not None:
            self._telemetry.start()
        logger.info(
            "listening",
            extra={
                "host": config.host,
                "grpc_port": addresses.grpc,
                "wire": self._grpc.name,
                "http_port": addresses.http,
                "metrics_port": addresses.metrics,
                "tls": self._certificates is not None,
                "admin_socket": str(self._admin_folder.path) if self._admin_folder else "",
            },
        )
        return addresses

    def _methods(self) -> dict[str, Method]:
        """The methods of every gRPC service, by path."""
        reflection = Reflection(self._front, (inference.SERVICE, vision.SERVICE, health.SERVICE))
        services = (self._inference, self._vision, self._grpc_health, reflection)
        return {path: method for each in services for path, method in each.methods().items()}

    def _http_ports(self) -> tuple[HttpPort, HttpPort]:
        """The ports of REST and of the metrics. The latter has few connections and answers also
        while memory is short; a page that calls it by any name learns the metrics at most."""
        config = self._config
        app = web.Application()
        app[LARGEST] = config.max_message_mib * _MIB
        add_probes(app, self._health, self._front)
        add_batches(app, self._catalogue, self._front)
        text = MetricsText(self._totals, self._front)
        self._rest.add_routes(app)
        self._vision_rest.add_routes(app)
        if config.console:
            add_console(app)
            app.router.add_get("/debug/metrics", text.answer)
        limits = HttpLimits.of(config)
        few = limits._replace(connections=_METRICS_CONNECTIONS, per_address=_METRICS_CONNECTIONS)
        hosts = Hosts((*config.http_hosts.split(","), config.host))
        tls = self._certificates
        certified = tls is not None and tls.required
        of_metrics = metrics_app(text, self._health, self._front, certified=certified)
        return (
            HttpPort("http", app, limits, self._metrics, self.budget, hosts, tls),
            HttpPort("metrics", of_metrics, few, self._metrics, None, certificates=tls),
        )

    async def drain(self, end: float) -> None:
        """Reports not ready but serves on until callers have left, or half of the time is over;
        then takes no new calls and waits for the accepted ones, until `end` on the loop's clock."""
        self._grpc_health.drain()
        # Balancers see the change after a moment; closing before that would fail their calls.
        await self._quiet(end - self._config.drain_seconds / 2)
        # A wire may cancel calls that it has received but not handed over: answer them first.
        self._front.close()
        await self._quiet(end)

    async def close(self, end: float) -> None:
        """Closes the ports, at `end` on the loop's clock even where callers send half a request or
        do not read their answers."""
        grace = max(LAST_SECONDS, end - LAST_SECONDS - asyncio.get_running_loop().time())
        await asyncio.gather(
            self._grpc.stop(grace), *(port.close(grace, LAST_SECONDS) for port in self._http)
        )
        self._lag.stop()
        if self._follower is not None:
            self._follower.cancel()
        if self._admin_folder is not None:
            self._admin_folder.close()
        await self._access.stop()
        if self._telemetry is not None:
            await self._telemetry.stop()

    def flush(self) -> None:
        """Waits for what is to be written beside the calls, for a moment."""
        self._tracer.flush(LAST_SECONDS)
        self._logs.wait(LAST_SECONDS)
        if self._telemetry is not None:
            self._telemetry.flush(LAST_SECONDS)

    async def _quiet(self, until: float) -> None:
        """Returns after _QUIET_SECONDS without a call, or at `until` on the loop's clock."""
        loop = asyncio.get_running_loop()
        while loop.time() < until and not self._front.quiet_for(_QUIET_SECONDS):
            await asyncio.sleep(_QUIET_SECONDS / 10)


def _telemetry(metrics: FrontMetrics, totals: Totals, version: str) -> "Telemetry":
    """Imported here alone: without --otel its packages need not be there. Raises StartError."""
    try:
        from serving.server.telemetry.setup import Telemetry
    except ModuleNotFoundError as error:
        raise StartError(
            f"--otel: {error.name} is not installed (pip install 'convserve[otel]')"
        ) from error
    return Telemetry(metrics, totals, version)
