"""A connection of an HTTP port: how long it may take for what, and how much may come ahead.

aiohttp bounds only how long a connection may be idle. The rest is done in its class of a
connection, for which it has no public way: hence the names with an underscore.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

from aiohttp import StreamReader, web

from serving.base.errors import InvalidInput, RequestTooLarge
from serving.base.turns import Turns
from serving.server.access.caller import on_unix_socket, site_of
from serving.server.http.connections import SLOWEST_RATE, Connections, HttpLimits
from serving.server.http.errors import malformed

# The bytes of a head that comes in pieces, and of requests sent ahead of an answer. More let a
# connection hold more memory that no budget counts; heads of clients have a few hundred.
_MOST_AHEAD = 64 << 10
# Bytes that the parser gets at a time, and the ends of lines in what came beyond which it does not
# get all. A chunk has two, and costs it 4 us; more hold up the event loop for longer, less delay
# large bodies in small chunks.
_SLICE = 2 << 10
_DENSE = 1000
# Bytes that come at once after which a connection waits for its turn to read on. Fewer put off
# common images, more let many connections hold up the event loop.
_MUCH = 64 << 10
# Chunks that a body may have, and one more for so many bytes. More let callers cause more work by
# less sending; clients send chunks of kilobytes.
_MOST_CHUNKS = 10_000
_BYTES_A_CHUNK = 512
# The header Server of every answer: aiohttp's own would tell its version and Python's.
_SERVER = "convserve"
# In the place of an address that is not known.
_LEFT = "left"


class Connection(web.RequestHandler):
    """A connection that keeps its limits.

    address: the caller's, of IPv6 its network, which one caller has whole; empty on a Unix socket.
    local: it came over a Unix socket.
    used: it has asked for something since it was last looked at.
    spare: it is one too many, and is answered about health alone.
    answer_size: bytes of the answer under way, where it is large.
    when_sent: called when the answer under way has been read, or its caller has left.
    """

    __slots__ = (
        "_ahead", "_backlog", "_chunks", "_connections", "_head_alarm", "_in_chunks",
        "_next_slice", "_pipe", "_read_by", "_received", "_request", "_turning", "_unread",
        "_write_alarm",
        "address", "answer_size", "local", "spare", "used", "when_sent",
    )  # fmt: skip

    def __init__(self, manager: web.Server, connections: Connections, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._connections = connections
        self._head_alarm: asyncio.TimerHandle | None = None
        self._write_alarm: asyncio.TimerHandle | None = None
        self._request: web.BaseRequest | None = None
        self._backlog = memoryview(b"")
        self._next_slice: asyncio.Handle | None = None
        self._in_chunks = self._turning = False
        self._ahead = self._chunks = self._received = 0
        self._unread = 0
        self._read_by = 0.0
        self.address = ""
        self.used = self.spare = self.local = False
        self.answer_size = 0
        self.when_sent: Callable[[], None] | None = None

    @property
    def limits(self) -> HttpLimits:
        """The limits of its port."""
        return self._connections.limits

    @property
    def turns(self) -> Turns:
        """The turns of large bodies of its port."""
        return self._connections.turns

    @property
    def idle(self) -> bool:
        """Whether it waits for a request, or for the rest of a head."""
        waiter = self._waiter
        return not self._messages and (
            not self._request_count if waiter is None else not waiter.done()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Lets it in, or tells it that there is no place."""
        # Those of uvloop are no instances of it.
        self._pipe = pipe = cast("asyncio.Transport", transport)
        self.local = on_unix_socket(transport)
        if not self.local:
            # No address is known of a caller who has left again by now.
            self.address = site_of((transport.get_extra_info("peername") or (_LEFT,))[0])
        if not self._connections.admit(self):
            self._refuse(503, "too many connections: try again later")
            return
        if self.spare:
            self._lingering_time = 0.0
        # Any byte that the system does not take pauses the writer, whose time then counts.
        pipe.set_write_buffer_limits(high=0)
        super().connection_made(transport)
        self._head_alarm = self._loop.call_later(self.limits.head, self._head_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Gives its place to others."""
        self._connections.leave(self)
        for alarm in (self._head_alarm, self._write_alarm):
            if alarm is not None:
                alarm.cancel()
        self._head_alarm = self._write_alarm = None
        super().connection_lost(exc)

    def begin(self, request: web.BaseRequest) -> None:
        """A request is answered from here on."""
        self.used = True
        self._request = request
        self._in_chunks = "Transfer-Encoding" in request.headers
        self._ahead = self._chunks = self._received = 0
        self._read_by = 0.0
        self.answer_size = 0

    def data_received(self, data: bytes) -> None:
        """Reads on, in slices where the parser would take long for what came, and in turns where
        much came."""
        if len(data) > _MUCH and not self._turning:
            self._turning = True
            self._pause_transport_reading()
            self._connections.readers.wait(self._turn)
        if self._backlog and data:
            self._backlog = memoryview(bytes(self._backlog) + data)
            self._pause_transport_reading()
        elif len(data) > _SLICE and self._is_dense(data):
            self._backlog = memoryview(data)
            self._pause_transport_reading()
            self._slice_later()
        else:
            # Without data aiohttp goes on with what it has kept, and so does the backlog then.
            self._take(data)
            self._slice_later()

    def _turn(self) -> None:
        self._turning = False
        if not (self._reading_paused or self._buffer_paused):
            self._resume_transport_reading()

    def _slice_later(self) -> None:
        if self._backlog and self._next_slice is None:
            self._next_slice = self._loop.call_soon(self._take_slice)

    def _is_dense(self, data: bytes) -> bool:
        """Whether data may hold many chunks of a body, each of which costs the parser 4 us."""
        if self._request_in_progress and self._request is not None:
            if not self._in_chunks and not self._request.content.is_eof():
                return False
        elif b"hunked" not in data[:_MOST_AHEAD]:
            return False
        return data.count(b"\n") > _DENSE

    def _take_slice(self) -> None:
        self._next_slice = None
        if self.transport is None:  # the caller has left
            self._backlog = memoryview(b"")
        elif not (self._reading_paused or self._buffer_paused):
            part, self._backlog = bytes(self._backlog[:_SLICE]), self._backlog[_SLICE:]
            self._take(part)
            self._slice_later()
            if not (self._reading_paused or self._buffer_paused):
                self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if not (self._backlog or self._turning):
            super()._resume_transport_reading()

    def _take(self, data: bytes) -> None:
        """Gives data to the parser, and sees to it that a head comes to its end."""
        if self._request_in_progress:
            request = self._request
            ahead = request is not None and request.content.is_eof()
            if self._in_chunks and request is not None and not ahead:
                self._take_chunks(data, request.content)
                return
            super().data_received(data)
            self._ahead += len(data) if ahead else 0
            if self._ahead > _MOST_AHEAD and not self._buffer_paused:
                self._pause_reading_for_buffer()
            return
        super().data_received(data)
        if self._messages:
            if self._head_alarm is not None:
                self._head_alarm.cancel()
                self._head_alarm = None
        elif data and (self._waiter is not None or not self._request_count):
            # Neither a request nor the rest of one: a part of a head.
            self._ahead += len(data)
            if self._ahead > _MOST_AHEAD:
                self._connections.refused("head")
                self._refuse(431, f"the head of the request has more than {_MOST_AHEAD} bytes")
            elif self._head_alarm is None:
                self._head_alarm = self._loop.call_later(self.limits.head, self._head_is_late)

    def _take_chunks(self, data: bytes, content: StreamReader) -> None:
        """Gives a part of a body to the parser, unless the body has too many chunks."""
        if self._chunks > self._most_chunks():
            return
        self._received += len(data)
        # aiohttp keeps the ends of chunks that are not read yet, and nobody reads meanwhile.
        before = len(content._http_chunk_splits or ())
        super().data_received(data)
        self._chunks += len(content._http_chunk_splits or ()) - before
        if self._chunks > self._most_chunks() and content.exception() is None:
            content.set_exception(
                RequestTooLarge(
                    f"body: more than {self._most_chunks()} chunks in {self._received} bytes; "
                    f"expected at most {_MOST_CHUNKS}, and one more for every {_BYTES_A_CHUNK} "
                    "bytes: send larger chunks, or a Content-Length"
                )
            )

    def _most_chunks(self) -> int:
        return _MOST_CHUNKS + self._received // _BYTES_A_CHUNK

    def _head_is_late(self) -> None:
        self._head_alarm = None
        self._connections.refused("head")
        if self._ahead:
            seconds = self.limits.head
            self._refuse(408, f"the head of the request took more than {seconds:g} s")
        else:
            # To an answer without a question a browser would take it for that of its next request.
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that cannot be read: lines that are too long, codings that are
        not there, bytes that are no HTTP. The connection closes after it."""
        self._connections.refused("malformed")
        return malformed(status, message, exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Writes an answer, and waits until the system has taken all of it."""
        resp.headers["Server"] = _SERVER
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            if self.when_sent is not None:
                self.when_sent()
                self.when_sent = None

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Logs what goes wrong between requests, unless the caller did it: a bad body that no route
        has read, or leaving."""
        caller_did = web.RequestPayloadError | ConnectionError | InvalidInput
        if self.transport is not None and not isinstance(kw.get("exc_info"), caller_did):
            super().log_exception(*args, **kw)

    def pause_writing(self) -> None:
        """From here on the caller's reading is timed: that of the whole answer, however often the
        system takes a part of it."""
        super().pause_writing()
        self._unread = self._pipe.get_write_buffer_size()
        now = self._loop.time()
        if not self._read_by:
            size = max(self._unread, self.answer_size)
            self._read_by = now + self.limits.transfer + size / SLOWEST_RATE
        self._watch_reader(self._read_by - now)

    def _watch_reader(self, left: float) -> None:
        self._write_alarm = self._loop.call_later(
            min(self.limits.stall, left), self._look_at_reader
        )

    def resume_writing(self) -> None:
        """The system has taken all that was written."""
        super().resume_writing()
        if self._write_alarm is not None:
            self._write_alarm.cancel()
            self._write_alarm = None

    def _look_at_reader(self) -> None:
        self._write_alarm = None
        unread = self._pipe.get_write_buffer_size()
        left = self._read_by - self._loop.time()
        if unread >= self._unread or left <= 0:
            self._connections.refused("answer")
            self._pipe.abort()
            return
        self._unread = unread
        self._watch_reader(left)

    def _refuse(self, status: int, text: str) -> None:
        """Answers without aiohttp, which has no request to answer, and closes."""
        if self._pipe.is_closing():
            return
        body = json.dumps({"error": text})
        self._pipe.write(
            f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nServer: {_SERVER}\r\nConnection: close\r\n\r\n"
            f"{body}".encode()
        )
        self.force_close()
        self._pipe.close()
