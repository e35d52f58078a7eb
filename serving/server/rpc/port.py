"""The port that serves gRPC."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from serving.server.config import ServerConfig, StartError
from serving.server.rpc import health, inference, vision

_MIB = 1 << 20


class Service(Protocol):
    """A service of ours."""

    def handler(self) -> grpc.GenericRpcHandler:
        """Its methods."""


class GrpcPort:
    """Serves our services and reflection. grpc.aio asks the services for a method in their order:
    the most called one comes first."""

    def __init__(self, config: ServerConfig, services: Sequence[Service]) -> None:
        self._server = grpc.aio.server(options=_channel_options(config))
        for service in services:
            self._server.add_generic_rpc_handlers((service.handler(),))
        described = (vision.SERVICE, inference.SERVICE, health.SERVICE)
        names = (*(service.full_name for service in described), reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer(names), self._server
        )

    def bind(self, host: str, port: int) -> int:
        """Opens the port and returns its number. Raises StartError."""
        address = f"{host}:{port}"
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(f"--grpc-port: cannot listen on {address}") from error

    def bind_socket(self, path: Path) -> None:
        """Also listens on a Unix socket. Raises StartError."""
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise StartError(f"--admin-socket: cannot listen on {path}") from error

    async def start(self) -> None:
        """Begins to take calls."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Takes no more calls; those under way are cancelled after `grace` seconds."""
        await self._server.stop(grace)


def _channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    age = round(config.max_connection_age_seconds * 1e3)
    aged = [
        ("grpc.max_connection_age_ms", age),
        # Streams that are open then may finish their calls.
        ("grpc.max_connection_age_grace_ms", round(config.drain_seconds * 1e3)),
    ]
    return [
        *(aged if age else ()),
        ("grpc.max_receive_message_length", config.max_message_mib * _MIB),
        ("grpc.max_send_message_length", config.max_message_mib * _MIB),
        # Clients of the protocol may ping often, also between calls.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 0),
        # With reuse, a second server on the port would silently share its calls; it must fail.
        ("grpc.so_reuseport", 0),
    ]
