"""The port that serves gRPC."""

import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from serving.base.errors import ServingError
from serving.base.memory import MemoryBudget
from serving.server.config import ServerConfig, StartError
from serving.server.endpoints.front import Front
from serving.server.endpoints.guard import PROBE_BYTES, bounded, parsed
from serving.server.rpc import health, inference, vision
from serving.server.rpc.errors import abort
from serving.server.rpc.handlers import stream_handler
from serving.server.rpc.traffic.connections import Connections
from serving.server.rpc.traffic.memory_watch import MemoryWatch
from serving.server.rpc.traffic.supervision import Supervision
from serving.server.rpc.traffic.transfers import Context, Stream, Transfers

_MIB = 1 << 20
# Calls that gRPC has received and not handed over yet. Beyond it, it cancels new ones at random, up
# to all at twice as many. Fewer (its default: 1,000) cancels honest calls in a flood of others,
# more lets them wait behind it: 4,096 take 60 MiB and a second.
_MOST_PENDING = 4096
# Seconds that a connection may take until it speaks HTTP/2.
_HANDSHAKE_SECONDS = 10
# Bytes of a call's headers. More than the first are refused at random, more than the second always.
_SOFT_METADATA_BYTES, _METADATA_BYTES = 8 << 10, 16 << 10
# Seconds between pings of a connection on which nothing comes, and until it is closed where none is
# answered: its caller has gone without a word.
_PING_SECONDS, _PING_TIMEOUT_SECONDS = 120, 20


# A call whose caller goes away while it is answered is no fault of the server's. grpc logs a
# traceback for each, as many as callers like.
logging.getLogger("grpc._cython.cygrpc").addFilter(
    lambda record: not record.getMessage().startswith("ExecuteBatchError raised in core")
)


class Service(Protocol):
    """A service of ours."""

    def handler(self, transfers: Transfers) -> grpc.GenericRpcHandler:
        """Its methods."""


class GrpcPort:
    """Serves our services and reflection. grpc.aio asks the services for a method in their order:
    the most called one comes first."""

    def __init__(
        self, config: ServerConfig, front: Front, budget: MemoryBudget, services: Sequence[Service]
    ) -> None:
        self._config = config
        self._front = front
        self._transfers = Transfers(front, budget)
        self._watch = MemoryWatch(budget)
        self._server = grpc.aio.server(options=_channel_options(config))
        handlers = [service.handler(self._transfers) for service in services]
        self._server.add_generic_rpc_handlers((*handlers, _reflection(self._transfers)))

    def bind(self, host: str, port: int) -> int:
        """Opens the port and returns its number. Raises StartError."""
        address = f"{host}:{port}"
        try:
            self._number = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(f"--grpc-port: cannot listen on {address}") from error
        return self._number

    def bind_socket(self, path: Path) -> None:
        """Also listens on a Unix socket. Raises StartError."""
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise StartError(f"--admin-socket: cannot listen on {path}") from error

    async def start(self) -> None:
        """Begins to take calls."""
        config = self._config
        self._supervision = Supervision(
            self._transfers,
            Connections(self._number, config.connections_per_address),
            self._watch,
            self._front.metrics,
            largest=config.max_message_mib * _MIB,
            receive_seconds=config.grpc_receive_seconds,
            send_seconds=config.grpc_send_seconds,
        )
        self._supervision.start()
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Takes no more calls; those under way are cancelled after `grace` seconds."""
        await self._server.stop(grace)
        self._supervision.stop()


def _reflection(transfers: Transfers) -> grpc.GenericRpcHandler:
    """Server reflection, which tells the messages of the services."""
    described = (vision.SERVICE, inference.SERVICE, health.SERVICE)
    names = (*(service.full_name for service in described), reflection.SERVICE_NAME)
    servicer: Any = reflection.aio.ReflectionServicer(names)

    async def reflect(stream: Stream, context: Context) -> None:
        async def requests() -> AsyncIterator[ServerReflectionRequest]:
            while (data := await stream.read()) is not grpc.aio.EOF:
                yield parsed(ServerReflectionRequest.FromString, bounded(data, PROBE_BYTES))

        try:
            async for answer in servicer.ServerReflectionInfo(requests(), context):
                await stream.write(answer.SerializeToString())
        except ServingError as error:
            await abort(context, error)

    methods = {"ServerReflectionInfo": stream_handler(reflect, transfers)}
    return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, methods)


def _channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    age = round(config.max_connection_age_seconds * 1e3)
    aged = [
        ("grpc.max_connection_age_ms", age),
        # Streams that are open then may finish their calls.
        ("grpc.max_connection_age_grace_ms", round(config.drain_seconds * 1e3)),
    ]
    idle = round(config.grpc_idle_seconds * 1e3)
    return [
        *(aged if age else ()),
        *([("grpc.max_connection_idle_ms", idle)] if idle else ()),
        # Images are compressed already, and inflating a message holds the event loop up: 0.1 s for
        # one of 32 MiB, that 32 KB of gzip bring. Callers who compress see UNIMPLEMENTED.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_receive_message_length", config.max_message_mib * _MIB),
        ("grpc.max_send_message_length", config.max_message_mib * _MIB),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.max_concurrent_streams", config.grpc_max_streams),
        ("grpc.server.max_pending_requests", _MOST_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _MOST_PENDING),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_SECONDS * 1000),
        ("grpc.max_metadata_size", _SOFT_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
        ("grpc.keepalive_time_ms", _PING_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_SECONDS * 1000),
        # Clients of the protocol may ping often, also between calls.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 0),
        # With reuse, a second server on the port would silently share its calls; it must fail.
        ("grpc.so_reuseport", 0),
    ]
