"""The port that serves gRPC by grpc.aio."""

import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.server.config import StartError
from serving.server.listening import endpoint
from serving.server.tls.certificates import Certificates
from serving.server.wire.grpcio.connections import Connections
from serving.server.wire.grpcio.credentials import credentials_of
from serving.server.wire.grpcio.memory_watch import MemoryWatch
from serving.server.wire.grpcio.supervision import Supervision
from serving.server.wire.grpcio.transfers import Context, GrpcioCall, Transfers, as_bytes
from serving.server.wire.interface import LARGE_ANSWER, End, Limits, Method

logger = logging.getLogger(__name__)

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


class GrpcioWire:
    """A Wire on a server of grpc.aio.

    copies: turns of long copies on the event loop.
    certificates: for TLS on the port; None for none.
    """

    name = "grpcio"

    def __init__(
        self,
        limits: Limits,
        budget: MemoryBudget,
        copies: Copies,
        metrics: FrontMetrics,
        certificates: Certificates | None = None,
    ) -> None:
        """Raises StartError where callers may, but need not, have a certificate."""
        self._credentials = credentials_of(certificates) if certificates else None
        self._limits = limits
        self._metrics = metrics
        self._transfers = Transfers(budget, copies, metrics)
        self._watch = MemoryWatch(budget)
        self._server = grpc.aio.server(options=_channel_options(limits))
        self._supervision: Supervision | None = None

    def bind(self, host: str, port: int) -> int:
        """Opens the port and returns its number. Raises StartError."""
        address = endpoint(host or "::", port)
        try:
            if self._credentials is None:
                self._number = self._server.add_insecure_port(address)
            else:
                self._number = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise StartError(f"--grpc-port: cannot listen on {address}") from error
        return self._number

    def bind_socket(self, path: Path) -> None:
        """Also listens on a Unix socket. Raises StartError."""
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise StartError(f"--admin-socket: cannot listen on {path}") from error

    async def start(self, methods: Mapping[str, Method]) -> None:
        """Begins to take calls."""
        self._server.add_generic_rpc_handlers((_Handlers(methods, self._transfers),))
        connections = Connections(self._number, self._limits.per_address)
        self._supervision = Supervision(
            self._transfers, connections, self._watch, self._metrics, self._limits
        )
        self._supervision.start()
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Takes no more calls; those under way are cancelled after `grace` seconds."""
        await self._server.stop(grace)
        if self._supervision is not None:
            self._supervision.stop()


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a call. grpc.aio asks for calls of each registered method in a task of
    its own, and with every call waits anew for all of these tasks: 20 us with our 30 methods. This
    one handler has one."""

    def __init__(self, methods: Mapping[str, Method], transfers: Transfers) -> None:
        self._handlers = {path: _handler(method, transfers) for path, method in methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler; None for a path that has none."""
        return self._handlers.get(handler_call_details.method)


def _handler(method: Method, transfers: Transfers) -> Any:
    run = method.run

    async def respond(_: AsyncIterator[bytes], context: Context) -> bytes:
        call = GrpcioCall(transfers, context, unary=True)
        try:
            answer = await run(call)
        except Exception as error:
            await _end(call, error)
            return b""
        data = as_bytes(answer or b"")
        if len(data) >= LARGE_ANSWER:
            await call.large_answer(data)
        return data

    async def converse(_: AsyncIterator[bytes], context: Context) -> None:
        call = GrpcioCall(transfers, context, unary=False)
        try:
            answer = await run(call)
            if answer is not None:
                await call.write(answer)
        except Exception as error:
            await _end(call, error)

    if method.unary:
        # As a stream of one message, which is the same on the wire: gRPC would receive the message
        # of a unary method before it calls it.
        return grpc.stream_unary_rpc_method_handler(respond)
    return grpc.stream_stream_rpc_method_handler(converse)


async def _end(call: GrpcioCall, error: Exception) -> None:
    """Ends a call whose method failed."""
    if isinstance(error, grpc.aio.BaseError):  # its caller has gone away
        raise error
    if not isinstance(error, End):
        logger.error("method failed", exc_info=error)
        error = End(grpc.StatusCode.INTERNAL, "internal error; the server's log says more")
    await call.end(error)


def _channel_options(limits: Limits) -> list[tuple[str, int]]:
    age, idle = round(limits.age * 1e3), round(limits.idle * 1e3)
    aged = [
        ("grpc.max_connection_age_ms", age),
        # Streams that are open then may finish their calls.
        ("grpc.max_connection_age_grace_ms", round(limits.age_grace * 1e3)),
    ]
    return [
        *(aged if age else ()),
        *([("grpc.max_connection_idle_ms", idle)] if idle else ()),
        # Images are compressed already, and inflating a message holds the event loop up: 0.1 s for
        # one of 32 MiB, that 32 KB of gzip bring. Callers who compress see UNIMPLEMENTED.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_receive_message_length", limits.message),
        ("grpc.max_send_message_length", limits.message),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_concurrent_streams", limits.streams),
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
