"""One call of the native wire."""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from serving.base.errors import InvalidInput, ServingError
from serving.server.wire.interface import Buffer, End, Peer
from serving.server.wire.native.framing import PREFIX, Messages
from serving.server.wire.native.headers import Header, metadata_of

if TYPE_CHECKING:
    from serving.server.wire.native.connection import Connection

# Bytes of a stream that its caller may send before anyone reads. Larger is faster over long lines
# and lets callers hold more memory.
WINDOW = 1 << 20
# Bytes that were read, after which the caller is told that he may send as many more.
_CONSUMED = WINDOW // 4
# Messages that are read without a turn of others in between. More cost less, and let a caller who
# sends many small ones hold the event loop for longer.
_READS = 32


class NativeCall:
    """A call, from its headers until both sides have ended it.

    id: of its stream.
    headers: as they came.
    deadline: when its caller gives up, seconds on the monotonic clock; inf for never.
    began: its status or its first answer was sent.
    ended: its caller has sent all.
    over: its status was sent, or its stream is gone.
    came: when it came, if it takes one message, monotonic seconds; else 0.
    refusal: the error that its method reads, in the place of messages.
    sending: when an answer began to wait for its reader; 0 where none does.
    held: bytes of messages that it holds in the memory budget.
    overhead, answers: bytes that it holds for itself, and for answers that wait.
    """

    __slots__ = (
        "_connection", "_consumed", "_messages", "_most", "_reads", "_since", "_single", "_unread",
        "_waiter", "answers", "began", "came", "deadline", "ended", "headers", "held", "id",
        "over", "overhead", "refusal", "sending", "task",
    )  # fmt: skip

    def __init__(
        self, connection: "Connection", stream: int, headers: Sequence[Header], *, ended: bool
    ) -> None:
        self._connection = connection
        self.id = stream
        self.headers = headers
        self.deadline = math.inf
        self.began = self.over = False
        self.ended = ended
        self.refusal: ServingError | None = None
        self.sending = self.came = 0.0
        self.held = self.overhead = self.answers = 0
        self.task: asyncio.Task[None] | None = None
        self._most = connection.limits.message
        self._messages = Messages(self._most)
        self._single = False
        # When waiting for the message under way began, monotonic seconds; 0 where none is awaited.
        self._since = 0.0
        # Bytes that came and were not acknowledged; bytes of these that were read.
        self._unread = self._consumed = self._reads = 0
        self._waiter: asyncio.Future[None] | None = None

    def takes_at_most(self, size: int) -> None:
        """Bounds the bytes of its messages, of which none has come yet."""
        self._most = min(self._most, size)
        self._messages = Messages(self._most)

    def awaits_one(self) -> None:
        """It takes a single message, for which waiting begins."""
        self._single = True
        self._since = self.came = time.monotonic()

    @property
    def peer(self) -> Peer | None:
        """Who calls; None on a Unix socket."""
        return self._connection.peer

    @property
    def certificate(self) -> tuple[str, ...] | None:
        """The names in the caller's verified certificate; None without one."""
        return self._connection.certificate

    @property
    def site(self) -> str:
        """The address, or network, of its caller."""
        return self._connection.site

    def metadata(self, key: str) -> Sequence[str]:
        """The values that the caller sent under a key; bytes as latin-1."""
        return metadata_of(self.headers, key)

    @property
    def has_message(self) -> bool:
        """Whether its next message is there."""
        return bool(self._messages.whole)

    async def read(self) -> bytes | None:
        """The next message, which the memory budget has given back: the reader takes what he keeps
        in the same step. None at the end. Raises InvalidInput, QueueFull, DeadlineExpired."""
        self._reads += 1
        if self._reads % _READS == 0:
            await asyncio.sleep(0)
        messages = self._messages
        while not messages.whole:
            if self.refusal is not None:
                raise self.refusal
            if self.ended:
                if messages.partial:
                    raise InvalidInput(
                        f"the stream ended within a message, which lacks {messages.lacking} bytes"
                    )
                return None
            if not self._single:
                self._since = time.monotonic() if messages.partial else 0.0
            self._waiter = asyncio.get_running_loop().create_future()
            self.grant()
            try:
                await self._waiter
            finally:
                self._waiter = None
            messages = self._messages
        held = messages.cost
        message = messages.take()
        self._connection.arrivals.give_back(self, held - messages.cost)
        if not self.ended:
            self._consumed += PREFIX + len(message)
            if self._consumed >= _CONSUMED or not messages.whole:
                self._acknowledge(min(self._consumed, self._unread))
                self._consumed = 0
        return message

    def arrived(self, data: bytes, end: bool) -> None:
        """Takes a frame of DATA, or the end of what the caller sends."""
        if data:
            self._unread += len(data)
            if self.over or self.refusal is not None:
                return
            messages = self._messages
            waiting, held = len(messages.whole), messages.cost
            try:
                messages.add(data)
            except End as refusal:
                self._connection.fail(self, refusal)
                return
            if len(messages.whole) > waiting:
                self._since = 0.0
            if messages.partial and not self._since:
                self._since = time.monotonic()
            self._connection.arrivals.take(self, messages.cost - held)
        if end:
            self.ended = True
            self._since = 0.0
        waiter = self._waiter
        if waiter is not None:
            if self._messages.whole or self.ended:
                self._wake()
            else:
                self.grant()

    def grant(self) -> None:
        """Lets the caller send as much more as has come, where the message under way finds memory;
        else this is done later."""
        count = self._unread
        if not count or self._waiter is None or self.over or self.refusal is not None:
            return
        large = self._messages.lacking and self._messages.size > WINDOW
        if not large or self._connection.arrivals.permits(self, count):
            self._consumed = 0
            self._acknowledge(count)

    def _acknowledge(self, count: int) -> None:
        self._unread -= count
        self._connection.sending.acknowledge(self.id, count)

    def late(self, before: float) -> bool:
        """Whether its method has waited since before then for the message under way."""
        return self._waiter is not None and 0.0 < self._since < before

    def refuse(self, error: ServingError) -> None:
        """Lets go of all that has come; the method reads the error."""
        if self.refusal is None:
            self.refusal = error
            self._since = 0.0
            self.drop()
            self._wake()

    def drop(self) -> None:
        """Lets go of the messages that have come."""
        if self.held:
            self._connection.arrivals.discard(self, self._messages)
            self._messages = Messages(self._most)
        else:
            self._messages.drop()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def write(self, message: Buffer) -> None:
        """Sends a message, and returns when the next may be written. Raises End for one that is too
        large."""
        data = await self.own(message)
        if self.over:
            raise asyncio.CancelledError
        self._connection.sending.message(self, data)
        await self._connection.sending.drained(self)

    async def own(self, answer: Buffer) -> bytes:
        """An answer as bytes that nobody changes. Raises End for one that is too large."""
        limit = self._connection.limits.message
        if len(answer) > limit:
            raise End(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the answer has {len(answer)} bytes, a message may have {limit}",
            )
        if isinstance(answer, bytes):
            return answer
        await self._connection.copies.turn(len(answer))
        return bytes(answer)

    def close(self) -> None:
        """Ends all that its stream had here, which is gone."""
        self.over = True
        self._since = self.sending = 0.0
        if self.refusal is not None:
            self.refusal.__traceback__ = None
        self.drop()
        if self._unread:
            self._connection.sending.release(self.id, self._unread)
        if self.task is not None:
            self.task.cancel()
