"""The messages that are on their way over the gRPC port.

gRPC collects a message before any code of ours sees it, up to max_message_mib for every call that
asks for one. So every method asks for its messages here, also one that takes a single one: then it
is known who receives since when, and whoever takes too long or too much can be cut.
"""

import asyncio
import functools
import threading
import time
import types
from collections.abc import Awaitable, Generator
from typing import Any, NamedTuple

import grpc

from serving.base.errors import InvalidInput, QueueFull
from serving.base.memory import MemoryBudget
from serving.server.endpoints.front import Front
from serving.server.rpc.traffic.connections import address_of

Context = grpc.aio.ServicerContext[Any, Any]

# An answer is there twice until it is written: ours, and the copy that gRPC writes.
ANSWER_COPIES = 2
# Bytes from which on an answer counts as held until it is written. Fewer costs small calls 2 us,
# more lets the answers of a stream take more unseen: 64 of them at most.
LARGE_ANSWER = 64 << 10
# Seconds after which a stream looks again whether memory is short.
_SHORT_SECONDS = 0.02
# Seconds after which a caller that was cut or refused for memory may try again.
_RETRY_SECONDS = 1.0


class Waiting(NamedTuple):
    """Something that waits for its caller.

    since: when that began, seconds on the monotonic clock.
    peer: of its connection, as gRPC writes it.
    taken: bytes of messages that its stream has had.
    """

    context: Context
    since: float
    peer: str
    taken: int = 0


# A Waiting; as a plain tuple it is made in a fifth of the time.
_Waits = tuple[Context, float, str, int]


class Transfers:
    """Receives the messages of all calls, and follows their answers until they are written. Other
    threads may look at who waits, in the order in which that began.

    calls, streams, answers: calls that wait for their message, streams that wait for the next one,
        answers that wait for their reader.
    begun: set when something is on its way; whoever waits for that clears it.
    refused: addresses whose messages are not received for now, "unix" for Unix sockets.
    copies: turns of the copies that gRPC makes.
    """

    def __init__(self, front: Front, budget: MemoryBudget) -> None:
        self._front = front
        self.budget = budget
        self.calls: dict[Context, _Waits] = {}
        self.streams: dict[Context, _Waits] = {}
        self.answers: dict[Context, _Waits] = {}
        self.begun = threading.Event()
        self.refused: frozenset[str] = frozenset()
        self.copies = front.copies

    @property
    def any(self) -> bool:
        """Whether something is on its way, or a stream waits for it."""
        return bool(self.calls or self.streams or self.answers)

    def receiving(self) -> list[Waiting]:
        """Calls and streams that wait for a message."""
        return [*map(Waiting._make, [*self.calls.values(), *self.streams.values()])]

    def waiting_streams(self) -> list[Waiting]:
        """Streams that wait for a message."""
        return [*map(Waiting._make, [*self.streams.values()])]

    def is_receiving(self, call: Waiting) -> bool:
        """Whether it still waits for the same message."""
        return call in (self.calls.get(call.context), self.streams.get(call.context))

    def busy(self, since: float) -> bool:
        """Whether something is on its way, but for streams that wait since before a time."""
        waiting = [*self.streams.values()]
        return bool(self.calls or self.answers or any(one[1] >= since for one in waiting))

    def late(self, before: float) -> list[Waiting]:
        """Calls that wait for their one message since before a time."""
        return _since(self.calls, before)

    def sending(self, before: float) -> list[Waiting]:
        """Answers that wait for their reader since before a time."""
        return _since(self.answers, before)

    async def message(self, context: Context) -> bytes:
        """The message of a call that takes one. Raises QueueFull where memory is short and the
        caller's address was cut for it, and InvalidInput where he sends none."""
        peer = context.peer()
        if self.refused and address_of(peer) in self.refused:
            self._front.metrics.shed.labels("", "memory").inc()
            raise short_of_memory("its message was not received")
        self.calls[context] = context, time.monotonic(), peer, 0
        if not self.begun.is_set():
            self.begun.set()
        try:
            data = await self.in_turn(context.read())
        finally:
            del self.calls[context]
        if data is grpc.aio.EOF:
            # Where the caller has gone away, the call is cancelled here.
            await asyncio.sleep(0)
            raise InvalidInput("expected a message, got none")
        return data  # type: ignore[no-any-return]

    @types.coroutine
    def in_turn(self, reading: Awaitable[Any]) -> Generator[Any, None, Any]:
        """The message that `reading` gives. When it has come, gRPC copies it twice on the event
        loop, 32 MiB in 20 ms, and would so copy all that have come meanwhile in one go. Here
        a long copy is the last one of its round of the loop, and the work on the message begins
        in the next."""
        steps = reading.__await__()
        try:
            arrival = next(steps)
        except StopIteration as end:
            return end.value
        try:
            yield arrival
        except BaseException as error:  # the call was cancelled
            steps.throw(error)
            raise
        copies = self.copies
        while copies.round_is_full:
            yield
        began = time.monotonic()
        message = yield from steps
        if copies.took(began):
            yield
        return message

    async def large_answer(self, context: Context, data: bytes) -> None:
        """Holds the answer to a call of one message until it is written, which gRPC begins next."""
        size = ANSWER_COPIES * len(data)
        self.budget.keep("answer", size)
        self.answers[context] = context, time.monotonic(), context.peer(), 0
        self.begun.set()
        done: Any = functools.partial(self._written, size)
        context.add_done_callback(done)
        await self.copies.turn(len(data))

    def _written(self, size: int, context: Context) -> None:
        del self.answers[context]
        self.budget.give_back("answer", size)


class Stream:
    """One stream's messages."""

    __slots__ = ("_context", "_peer", "_taken", "_transfers")

    def __init__(self, transfers: Transfers, context: Context) -> None:
        self._transfers = transfers
        self._context = context
        self._peer = context.peer()
        self._taken = 0

    async def read(self) -> Any:
        """The next message, grpc.aio.EOF at the end. Waits while memory is short and the caller's
        address was cut for it."""
        transfers, context = self._transfers, self._context
        while transfers.refused and address_of(self._peer) in transfers.refused:
            await asyncio.sleep(_SHORT_SECONDS)
        transfers.streams[context] = context, time.monotonic(), self._peer, self._taken
        if not transfers.begun.is_set():
            transfers.begun.set()
        try:
            data = await transfers.in_turn(context.read())
        finally:
            del transfers.streams[context]
        if data is not grpc.aio.EOF:
            self._taken += len(data)
        return data

    async def write(self, data: bytes) -> None:
        """Sends an answer; returns when it is written."""
        transfers, context = self._transfers, self._context
        transfers.answers[context] = context, time.monotonic(), self._peer, 0
        if not transfers.begun.is_set():
            transfers.begun.set()
        try:
            await transfers.copies.turn(len(data))
            await context.write(data)
        finally:
            del transfers.answers[context]


def _since(waiting: dict[Context, _Waits], before: float) -> list[Waiting]:
    return [Waiting(*one) for one in [*waiting.values()] if one[1] < before]


def short_of_memory(consequence: str) -> QueueFull:
    """The error for a caller who is refused or cut since too much is being received."""
    return QueueFull(
        f"memory is short, since too many or too large messages are being received: {consequence}",
        _RETRY_SECONDS,
    )
