"""How services are made known to grpc.aio."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import grpc


def generic_only(server: grpc.aio.Server) -> grpc.aio.Server:
    """What to give to the generated `add_..._to_server` in place of the server itself.

    They offer each method twice, by a generic handler of the service and as a registered one.
    grpc.aio asks for calls of each registered method in a task of its own, and with every call
    waits anew for all of these tasks: 20 us with our 30 methods. A generic handler has one.
    """
    return cast("grpc.aio.Server", _GenericHandlers(server))


class _GenericHandlers:
    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        pass
