"""The messages that are on their way over the gRPC port.

gRPC collects a message before any code of ours sees it, up to `Limits.message` for every call that
asks for one. So every method asks for its messages here, also one that takes a single one: then it
is known who receives since when, and whoever takes too long or too much can be cut.
"""

import asyncio
import functools
import math
import threading
import time
import types
from collections.abc import Awaitable, Generator, Sequence
from typing import Any, NamedTuple

import grpc

from serving.base.errors import QueueFull, ServingError
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.server.tls.peer import names_of
from serving.server.wire.errors import end_of
from serving.server.wire.grpcio.connections import address_of, peer_of
from serving.server.wire.interface import LARGE_ANSWER, Buffer, End, Peer

Context = grpc.aio.ServicerContext[Any, Any]

_DETAILS_KEY = "grpc-status-details-bin"
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

    call: "GrpcioCall"
    since: float
    peer: str
    taken: int = 0


# A Waiting; as a plain tuple it is made in a fifth of the time.
_Waits = tuple["GrpcioCall", float, str, int]


class Transfers:
    """Receives the messages of all calls, and follows their answers until they are written. Other
    threads may look at who waits, in the order in which that began.

    calls, streams, answers: calls that wait for their message, streams that wait for the next one,
        answers that wait for their reader.
    begun: set when something is on its way; whoever waits for that clears it.
    refused: addresses whose messages are not received for now, "unix" for Unix sockets.
    copies: turns of the copies that gRPC makes.
    """

    def __init__(self, budget: MemoryBudget, copies: Copies, metrics: FrontMetrics) -> None:
        self.budget = budget
        self.copies = copies
        self.metrics = metrics
        self.calls: dict[GrpcioCall, _Waits] = {}
        self.streams: dict[GrpcioCall, _Waits] = {}
        self.answers: dict[GrpcioCall, _Waits] = {}
        self.begun = threading.Event()
        self.refused: frozenset[str] = frozenset()

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

    def is_receiving(self, waiting: Waiting) -> bool:
        """Whether it still waits for the same message."""
        return waiting in (self.calls.get(waiting.call), self.streams.get(waiting.call))

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


class GrpcioCall:
    """A call, on a context of grpc.aio.

    unary: it takes one message.
    came: when it came, if it takes one message, monotonic seconds; else 0.
    """

    __slots__ = (
        "_context", "_ended", "_peer", "_refusal", "_taken", "_transfers", "_unary", "came",
    )  # fmt: skip

    def __init__(self, transfers: Transfers, context: Context, *, unary: bool) -> None:
        self._transfers = transfers
        self._context = context
        self._unary = unary
        self.came = 0.0
        self._peer = context.peer()
        self._taken = 0
        self._ended = False
        self._refusal: ServingError | None = None

    @property
    def deadline(self) -> float:
        """When its caller gives up, seconds on the monotonic clock; inf for never."""
        remaining = self._context.time_remaining()
        return math.inf if remaining is None else time.monotonic() + remaining

    @property
    def peer(self) -> Peer | None:
        """Who calls; None on a Unix socket."""
        return peer_of(self._peer)

    @property
    def certificate(self) -> tuple[str, ...] | None:
        """The names in the caller's verified certificate; None without one."""
        for certificate in self._context.auth_context().get("x509_pem_cert", ()):
            return names_of(certificate)
        return None

    def metadata(self, key: str) -> Sequence[str]:
        """The values that the caller sent under a key; bytes as latin-1."""
        sent = self._context.invocation_metadata() or ()
        found = (value for name, value in sent if name == key)
        return [one.decode("latin-1") if isinstance(one, bytes) else one for one in found]

    @property
    def has_message(self) -> bool:
        """False: gRPC does not tell."""
        return False

    async def read(self) -> bytes | None:
        """The next message; None when the caller has sent all. While memory is short and his
        address was cut for it, a stream waits, and a call that takes one message is refused by
        QueueFull. Raises ServingError where the supervision has ended the call."""
        transfers = self._transfers
        if transfers.refused:
            await self._received_again()
        now = time.monotonic()
        if self._unary:
            self.came, waiting = now, transfers.calls
        else:
            waiting = transfers.streams
        waiting[self] = self, now, self._peer, self._taken
        if not transfers.begun.is_set():
            transfers.begun.set()
        try:
            data = await transfers.in_turn(self._context.read())
        except grpc.aio.AbortError:
            if self._refusal is None:
                raise
            raise self._refusal from None
        finally:
            del waiting[self]
        if data is grpc.aio.EOF:
            # Where the caller has gone away, the call is cancelled here.
            await asyncio.sleep(0)
            return None
        self._taken += len(data)
        return data  # type: ignore[no-any-return]

    async def _received_again(self) -> None:
        """Returns when messages of the caller's address are received. Raises QueueFull."""
        transfers, address = self._transfers, address_of(self._peer)
        while address in transfers.refused:
            if self._unary:
                transfers.metrics.shed.count("", "memory")
                raise short_of_memory("its message was not received")
            await asyncio.sleep(_SHORT_SECONDS)

    async def write(self, message: Buffer) -> None:
        """Sends a message; returns when it is written, and holds gRPC's copy until then."""
        transfers, size = self._transfers, len(message)
        transfers.answers[self] = self, time.monotonic(), self._peer, 0
        if not transfers.begun.is_set():
            transfers.begun.set()
        large = size >= LARGE_ANSWER
        if large:
            transfers.budget.keep("answer", size)
        try:
            await transfers.copies.turn(size)
            await self._context.write(as_bytes(message))
        finally:
            del transfers.answers[self]
            if large:
                transfers.budget.give_back("answer", size)

    async def large_answer(self, data: bytes) -> None:
        """Holds the answer to a call of one message until it is written, which gRPC begins next:
        it is there twice by then."""
        transfers, size = self._transfers, 2 * len(data)
        transfers.budget.keep("answer", size)
        transfers.answers[self] = self, time.monotonic(), self._peer, 0
        transfers.begun.set()
        done: Any = functools.partial(self._written, size)
        self._context.add_done_callback(done)
        await transfers.copies.turn(len(data))

    def _written(self, size: int, _: Context) -> None:
        del self._transfers.answers[self]
        self._transfers.budget.give_back("answer", size)

    async def refuse(self, error: ServingError) -> None:
        """Ends a call that waits for a message with the status of an error, which its reading
        raises then. The reading is not cancelled, since gRPC would lose a message that has just
        come: it raises AbortError."""
        self._refusal = error
        await self.end(end_of(error))

    async def end(self, end: End) -> None:
        """Ends the call with a status, unless it was ended already."""
        if not self._ended:
            self._ended = True
            metadata = ((_DETAILS_KEY, end.details),) if end.details else ()
            await self._context.abort(end.code, end.message, metadata)


def as_bytes(message: Buffer) -> bytes:
    """The message, as gRPC takes it."""
    return message if type(message) is bytes else bytes(message)


def _since(waiting: dict[GrpcioCall, _Waits], before: float) -> list[Waiting]:
    return [Waiting(*one) for one in [*waiting.values()] if one[1] < before]


def short_of_memory(consequence: str) -> QueueFull:
    """The error for a caller who is refused or cut since too much is being received."""
    return QueueFull(
        f"memory is short, since too many or too large messages are being received: {consequence}",
        _RETRY_SECONDS,
    )
