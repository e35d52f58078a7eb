"""The methods of our services, as every wire takes them."""

import functools
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from serving.base.errors import InvalidInput, ServingError
from serving.server.endpoints.guard import PROBE_BYTES
from serving.server.wire.errors import end_of
from serving.server.wire.interface import Buffer, Call, Method

Unary = Callable[[bytes, Call], Awaitable[Buffer | Message]]
Streaming = Callable[[Call], Awaitable[None]]
# Of a method by its name.
Admit = Callable[[str, Call], None]


def methods_of(
    service: ServiceDescriptor,
    servicer: object,
    admit: Admit | None = None,
    probes: Collection[str] = (),
    **otherwise: Callable[..., Awaitable[Any]],
) -> dict[str, Method]:
    """The methods of a service that `servicer` has, by path.

    A unary method takes its message as it came, and returns its answer, serialised or not. Any
    other reads and writes its messages by itself. The ServingErrors of both end the call with their
    status.

    admit: raises the ServingError of a caller who is refused whatever he sends, before a message of
        his that is still on its way is received: else whoever is known to nobody could take the
        memory of others.
    probes: methods that everybody may ask, in few bytes.
    otherwise: methods by name that the servicer has under another.
    """
    methods = {}
    for method in service.methods:
        behaviour = otherwise.get(method.name) or getattr(servicer, method.name, None)
        if behaviour is not None:
            asked = method.name in probes
            first = None if asked or admit is None else functools.partial(admit, method.name)
            streams = method.client_streaming or method.server_streaming
            made = streaming(behaviour) if streams else _unary(behaviour, first)
            if asked:
                made = made._replace(most=PROBE_BYTES)
            methods[f"/{service.full_name}/{method.name}"] = made
    return methods


def _unary(behaviour: Unary, admit: Callable[[Call], None] | None) -> Method:
    async def run(call: Call) -> Buffer:
        try:
            if admit is not None and not call.has_message:
                admit(call)
            # No name for the message here, so that the method may let go of it.
            answer = await behaviour(_given(await call.read()), call)
        except ServingError as error:
            raise end_of(error) from None
        return answer.SerializeToString() if isinstance(answer, Message) else answer

    return Method(run, unary=True)


def _given(message: bytes | None) -> bytes:
    if message is None:
        raise InvalidInput("expected a message, got none")
    return message


def streaming(behaviour: Streaming) -> Method:
    """A method that reads and writes its messages by itself."""

    async def run(call: Call) -> None:
        try:
            await behaviour(call)
        except ServingError as error:
            raise end_of(error) from None

    return Method(run, unary=False)
