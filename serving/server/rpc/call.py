"""Between a gRPC call and the front: its deadline, its caller, and errors turned to statuses."""

import functools
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc

from serving.base.errors import ServingError
from serving.server.endpoints.front import Call, Caller, Front, GetCaller, InferenceCall
from serving.server.rpc.errors import abort

Response = TypeVar("Response")
Service = TypeVar("Service")
Context = grpc.aio.ServicerContext[Any, Any]
# A unary method of a servicer. It takes its request as it came, so that bytes that are no message
# meet our guard and not grpc's, which calls them the server's fault.
Method = Callable[[Service, bytes, Context], Awaitable[Response]]


def unary(method: Method[Service, Response]) -> Method[Service, Response]:
    """A unary method whose ServingErrors end the call with their status."""

    @functools.wraps(method)
    async def ending(service: Service, data: bytes, context: Context) -> Response:
        try:
            return await method(service, data, context)
        except ServingError as error:
            await abort(context, error)

    return ending


def inference_call(front: Front, method: str, data: bytes, context: Context) -> InferenceCall:
    """A call that infers, for the request `data`."""
    return front.call(method, caller_of(context), len(data), deadline_of(context))


def control_call(front: Front, method: str, data: bytes, context: Context) -> Call:
    """A call that infers nothing, for the request `data`."""
    return front.control(method, caller_of(context), len(data))


def caller_of(context: Context) -> GetCaller:
    """Gives the caller when asked: to find it out costs more than a call can spare."""
    return lambda: Caller(_address(context.peer()), _authorization(context))


def _authorization(context: Context) -> str:
    values = [v for k, v in context.invocation_metadata() or () if k == "authorization"]
    return ",".join(map(str, values))


def _address(peer: str) -> str | None:
    """The address in gRPC's "ipv4:127.0.0.1:80", "ipv6:%5B::1%5D:80"; None on a Unix socket."""
    kind, _, rest = unquote(peer).partition(":")
    return None if kind == "unix" else _plain(rest.rpartition(":")[0].strip("[]"))


def _plain(address: str) -> str:
    """An address of IPv4 as itself, also on a socket of IPv6."""
    return address.removeprefix("::ffff:")


def deadline_of(context: Context) -> float:
    """Monotonic seconds; inf where the caller set none."""
    remaining = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining
