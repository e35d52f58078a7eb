"""Registers services at grpc.aio."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from serving.base.errors import ServingError
from serving.server.rpc.errors import abort
from serving.server.rpc.traffic.transfers import LARGE_ANSWER, Context, Stream, Transfers

Unary = Callable[[bytes, Context], Awaitable[bytes | Message]]
Streaming = Callable[[Stream, Context], Awaitable[None]]


def service_handler(
    service: ServiceDescriptor,
    servicer: object,
    transfers: Transfers,
    **otherwise: Callable[..., Awaitable[Any]],
) -> grpc.GenericRpcHandler:
    """One handler for the methods of a service that `servicer` has; the others are UNIMPLEMENTED.
    `otherwise` are methods by name that the servicer has under another.

    A unary method takes its message as it came, so that bytes that are no message meet our guard
    and not grpc's, which calls them the server's fault. It returns its answer, serialised or not;
    its ServingErrors end the call with their status. Any other method takes a Stream.

    The generated `add_..._to_server` would register each method by itself as well. grpc.aio asks
    for calls of each registered method in a task of its own, and with every call waits anew for all
    of these tasks: 20 us with our 30 methods. A generic handler has one.
    """
    methods: dict[str, Any] = {}
    for method in service.methods:
        behaviour = otherwise.get(method.name) or getattr(servicer, method.name, None)
        if behaviour is not None:
            methods[method.name] = _handler(method, behaviour, transfers)
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _handler(
    method: MethodDescriptor, behaviour: Callable[..., Awaitable[Any]], transfers: Transfers
) -> Any:
    if method.client_streaming or method.server_streaming:
        return stream_handler(behaviour, transfers)

    async def respond(_: AsyncIterator[bytes], context: Context) -> bytes:
        try:
            # No name for the message here, so that the method may let go of it.
            answer = await behaviour(await transfers.message(context), context)
        except ServingError as error:
            await abort(context, error)
        data = answer.SerializeToString() if isinstance(answer, Message) else answer
        if len(data) >= LARGE_ANSWER:
            await transfers.large_answer(context, data)
        return data

    # As a stream of one message, which is the same on the wire: gRPC would receive the message of a
    # unary method before it calls it.
    return grpc.stream_unary_rpc_method_handler(respond)


def stream_handler(behaviour: Streaming, transfers: Transfers) -> Any:
    """The handler of a method that reads and writes messages by itself."""

    async def converse(_: AsyncIterator[bytes], context: Context) -> None:
        await behaviour(Stream(transfers, context), context)

    return grpc.stream_stream_rpc_method_handler(converse)
