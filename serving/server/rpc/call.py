"""Between a gRPC call and the front: its deadline, and errors turned to statuses."""

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc

from serving.base.errors import ServingError
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.front import Call, Front
from serving.server.rpc.status import abort

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Request, Call], Awaitable[Response]]


async def unary(
    front: Front,
    method: str,
    request: Request,
    context: Context,
    handler: Handler[Request, Response],
) -> Response:
    """Runs a unary call; an error ends it with its status."""
    try:
        return await front.run(method, _deadline(context), handler, request)
    except ServingError as error:
        await abort(context, error)


async def stream(
    front: Front,
    method: str,
    context: Context,
    handler: Handler[Request, Response],
    failed: Callable[[Request, ServingError], Response],
) -> None:
    """Runs the calls of a stream; `failed` makes the answer of one that failed."""
    deadline = _deadline(context)

    async def answer(request: Request) -> Response:
        try:
            return await front.run(method, deadline, handler, request)
        except ServingError as error:
            return failed(request, error)

    # Straight from the context: generators around it would cost as much again.
    await front.stream(context.read, grpc.aio.EOF, context.write, answer)


@asynccontextmanager
async def admin_call(context: Context, admin: Admin) -> AsyncIterator[Admin]:
    """Lets callers of this machine in, unless others are allowed; errors end the call."""
    try:
        admin.require_local(_address(context.peer()))
        yield admin
    except ServingError as error:
        await abort(context, error)


def _address(peer: str) -> str | None:
    """The address in gRPC's "ipv4:127.0.0.1:80", "ipv6:%5B::1%5D:80"; None on a unix socket."""
    kind, _, rest = unquote(peer).partition(":")
    return None if kind == "unix" else rest.rpartition(":")[0].strip("[]")


def _deadline(context: Context) -> float:
    """Monotonic seconds; inf where the caller set none."""
    remaining = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining
