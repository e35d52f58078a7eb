"""What one connection sends: answers, statuses, and room for what its caller sends."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import ngh2

from serving.base.memory import MemoryBudget
from serving.server.wire.interface import LARGE_ANSWER
from serving.server.wire.native import headers
from serving.server.wire.native.call import NativeCall
from serving.server.wire.native.framing import prefix
from serving.server.wire.native.headers import Header

# Bytes of frames that are made at a time, and how often in one turn. More need fewer calls of the
# system, and hold more memory for callers who do not read.
_PIECE = 64 << 10
_PIECES = 4
# Bytes that a stream, and all streams of a connection, may have queued before `write` waits. More
# keep the line busier, fewer hold less memory for callers who do not read.
_QUEUED = 64 << 10
_QUEUED_IN_ALL = 4 << 20
# Bytes from which on an answer is queued by itself; below, copying it is quicker than a second
# buffer.
_APART = 16 << 10


class Sending:
    """Queues answers, and hands their frames to the transport as fast as it takes them.

    handle: handles the events that sending brings.
    stuck: since when the transport takes no more, monotonic seconds; 0 where it does.
    """

    def __init__(
        self,
        h2: ngh2.Connection,
        pipe: asyncio.Transport,
        budget: MemoryBudget,
        handle: Callable[[], object],
    ) -> None:
        self._h2 = h2
        self._pipe = pipe
        self._budget = budget
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self.stuck = 0.0
        self._scheduled = False
        # Calls whose `write` waits.
        self._draining: dict[NativeCall, asyncio.Future[None]] = {}
        # Streams that are reset once their status is out.
        self._resets: list[int] = []
        # Bytes of the transport, which are counted while it takes no more.
        self._kept = 0
        pipe.set_write_buffer_limits(high=_PIECE, low=_PIECE // 4)

    def begin(self, settings: dict[int, int], window: int) -> None:
        """Sends the settings, and lets all streams together send `window` bytes."""
        self._h2.initiate_connection(settings)
        self._h2.set_local_window_size(window)
        self.soon()

    def message(self, call: NativeCall, message: bytes) -> None:
        """Queues an answer. Raises CancelledError where the stream has ended meanwhile, or the
        connection: the call's task is about to be cancelled."""
        try:
            if not call.began:
                call.began = True
                self._h2.send_response(call.id, headers.BEGIN)
            size = len(message)
            if size < _APART:
                self._h2.send_data(call.id, prefix(size) + message)
            else:
                self._h2.send_data(call.id, prefix(size))
                self._h2.send_data(call.id, message)
        except ngh2.NGH2Error as error:
            raise asyncio.CancelledError from error
        if size >= LARGE_ANSWER:
            self._budget.keep("answer", size)
            call.answers += size
        self.soon()

    async def drained(self, call: NativeCall) -> None:
        """Returns when the call may queue its next answer."""
        if not self._may_queue(call):
            call.sending = time.monotonic()
            self._draining[call] = place = self._loop.create_future()
            try:
                await place
            finally:
                self._draining.pop(call, None)
                call.sending = 0.0
        self.give_back(call)

    def give_back(self, call: NativeCall) -> None:
        """Gives the memory of answers back, which are sent or dropped."""
        if call.answers:
            self._budget.give_back("answer", call.answers)
            call.answers = 0

    def end(self, call: NativeCall, trailers: tuple[Header, ...]) -> None:
        """Queues the status of a call behind its answers."""
        call.over = True
        call.sending = time.monotonic()
        try:
            if call.began:
                self._h2.send_trailers(call.id, trailers)
            else:
                self._h2.send_response(call.id, (*headers.BEGIN, *trailers), end_stream=True)
        except ngh2.NGH2Error:  # the stream, or the connection, has ended meanwhile
            return
        if not call.ended:
            self._resets.append(call.id)
        self.soon()

    def refuse(self, stream: int, answer: tuple[Header, ...], *, ended: bool) -> None:
        """Answers a request that is no call."""
        with suppress(ngh2.NGH2Error):  # it has been reset already
            self._h2.send_response(stream, answer, end_stream=True)
        if not ended:
            self._resets.append(stream)
        self.soon()

    def reset(self, call: NativeCall) -> None:
        """Ends a call whose caller would not read its status either."""
        with suppress(ngh2.NGH2Error):  # it has ended by itself
            self._h2.reset_stream(call.id, ngh2.ErrorCode.CANCEL)
        self.soon()

    def acknowledge(self, stream: int, count: int) -> None:
        """Lets the caller send `count` more bytes."""
        self.release(stream, count)
        self.soon()

    def release(self, stream: int, count: int) -> None:
        """Lets all streams together send `count` more bytes, which came by one that is gone."""
        try:
            self._h2.acknowledge_received_data(count, stream)
        except ngh2.NGH2Error:  # the connection has ended
            return

    def retire(self) -> None:
        """Asks the other side for no new calls, and for a sign that it has read so."""
        with suppress(ngh2.NGH2Error):
            self._h2.send_shutdown_notice()
            self._h2.ping()
        self.soon()

    def goodbye(self) -> None:
        """Takes no new calls from here on."""
        with suppress(ngh2.NGH2Error):
            self._h2.send_goaway()
        self.soon()

    def ping(self) -> None:
        """Asks for a sign of life."""
        with suppress(ngh2.NGH2Error):
            self._h2.ping()
        self.soon()

    def soon(self) -> None:
        """Sends in the next round of the event loop, together with what comes up until then."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.now)

    def now(self) -> None:
        """Sends as much as the transport takes, and is this connection's turn for."""
        self._scheduled = False
        if self._pipe.is_closing():
            return
        for _ in range(_PIECES):
            if self.stuck:
                break
            try:
                data = self._h2.data_to_send(_PIECE)
            except ngh2.NGH2Error:
                self._pipe.abort()
                return
            if data:
                self._pipe.write(data)
            if len(data) < _PIECE:
                if self._resets:
                    self._reset_ended()
                break
        else:
            self.soon()
        self._handle()
        if self._draining:
            self._let_write()

    def _reset_ended(self) -> None:
        """Resets the streams whose status is out, and whose callers still send."""
        resets, self._resets = self._resets, []
        for stream in resets:
            with suppress(ngh2.NGH2Error):  # it has ended by itself
                # Trailers wait for a window too, although they need none.
                window = self._h2.stream_remote_window_size(stream)
                if self._h2.queued_body_size(stream) or window <= 0:
                    self._resets.append(stream)
                else:
                    self._h2.reset_stream(stream, ngh2.ErrorCode.NO_ERROR)
                    self.soon()

    def _let_write(self) -> None:
        for call, place in [*self._draining.items()]:
            if self._may_queue(call) and not place.done():
                place.set_result(None)

    def _may_queue(self, call: NativeCall) -> bool:
        return (
            not self.stuck
            and self._h2.queued_body_size(call.id) <= _QUEUED
            and self._h2.queued_body_size() <= _QUEUED_IN_ALL
        )

    def pause(self) -> None:
        """The transport takes no more."""
        self.stuck = time.monotonic()
        self._kept = self._pipe.get_write_buffer_size()
        self._budget.keep("answer", self._kept)

    def resume(self) -> None:
        """It takes more."""
        self.stuck = 0.0
        self._budget.give_back("answer", self._kept)
        self._kept = 0
        self.soon()

    def close(self) -> None:
        """The connection is gone."""
        if self.stuck:
            self._budget.give_back("answer", self._kept)
            self._kept = 0
        self._scheduled = True
