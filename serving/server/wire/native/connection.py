"""One connection of the native wire: HTTP/2, and the calls that it carries."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import grpc
import ngh2

from serving.base.errors import ServingError, quoted, without_frames
from serving.server.access.caller import on_unix_socket, plain_address, site_of
from serving.server.wire.interface import End, Method, Peer
from serving.server.wire.native import headers
from serving.server.wire.native.call import NativeCall
from serving.server.wire.native.deadlines import Deadlines
from serving.server.wire.native.http2 import CONFIGURATION, CONNECTION_WINDOW, settings_of
from serving.server.wire.native.lifetime import Lifetime, shutting_down
from serving.server.wire.native.sending import Sending

if TYPE_CHECKING:
    from serving.server.wire.native.listener import NativeWire

logger = logging.getLogger(__name__)

# Events of HTTP/2, and bytes, after which other connections have their turn, and bytes between two
# looks at the number of events. More cost fewer turns, and let one caller hold the event loop for
# longer: 128 events take 0.3 to 3 ms, and a slice brings up to 900.
_TURN_EVENTS = 128
_TURN_BYTES = 128 << 10
_SLICE = 8 << 10
# Events from which on calls that were reset at once are looked for.
_MANY_EVENTS = 8
# Bytes that a call takes beside its headers and messages: its task, its stream.
_CALL_BYTES = 4 << 10


class Connection(asyncio.Protocol):
    """A connection.

    peer: the other side; None on a Unix socket.
    site: its address, or network, as `site_of` names it; "unix" on a Unix socket.
    calls: by stream.
    """

    sending: Sending
    life: Lifetime

    def __init__(self, wire: "NativeWire") -> None:
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self.limits, self.arrivals = wire.limits, wire.arrivals
        self.copies, self.cuts = wire.copies, wire.cuts
        self.peer: Peer | None = None
        self.site = "unix"
        self.calls: dict[int, NativeCall] = {}
        self._deadlines = Deadlines(self.calls, lambda call: self.fail(call, _late()))
        self._h2 = ngh2.Connection(ngh2.Role.SERVER, CONFIGURATION)
        # Bytes that wait for the connection's turn; nothing more is read meanwhile.
        self._backlog: bytes | memoryview = b""
        self._turning = False
        # Nothing more is read at all.
        self._deaf = False
        self._handlers: dict[type[ngh2.Event], Callable[[Any], None]] = {
            ngh2.DataReceived: self._data,
            ngh2.RequestReceived: self._request,
            ngh2.StreamClosed: self._stream_closed,
            ngh2.StreamReset: self._stream_closed,
            ngh2.TrailersReceived: self._trailers,
            ngh2.SettingsReceived: self._settings,
            ngh2.PingAcknowledged: self._pinged,
            ngh2.ConnectionClosed: self._closed,
        }

    @property
    def certificate(self) -> tuple[str, ...] | None:
        """The names in the other side's verified certificate; None without one."""
        names: tuple[str, ...] | None = self._pipe.get_extra_info("certificate")
        return names

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Lets it in, or closes it where there is no place."""
        # Those of uvloop are no instances of it.
        self._pipe = pipe = cast("asyncio.Transport", transport)
        if not on_unix_socket(transport):
            # No address is known of a caller who has left again by now.
            address, port, *_ = transport.get_extra_info("peername") or ("", 0)
            self.peer, self.site = Peer(plain_address(address), port), site_of(address)
        self.sending = Sending(self._h2, pipe, self.arrivals.budget, self._handle)
        self.life = Lifetime(self, self._wire.times)
        if not self._wire.admit(self):
            self.abort()
            return
        self.sending.begin(settings_of(self.limits), CONNECTION_WINDOW)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels its calls."""
        self._deaf = True
        self._deadlines.close()
        for call in [*self.calls.values()]:
            self._forget(call)
        self.sending.close()
        self._wire.leave(self)

    def data_received(self, data: bytes) -> None:
        """Takes what has come."""
        if self._deaf:
            return
        self.life.heard = time.monotonic()
        if self._turning:  # read before it was paused
            self._wait_for_turn(bytes(self._backlog) + data)
        else:
            self._take(data)

    def _take(self, data: bytes | memoryview) -> None:
        """Takes as much of what has come as is this connection's turn for."""
        size, count = len(data), 0
        while data and count <= _TURN_EVENTS:
            if len(data) > _SLICE:
                data = memoryview(data)
            part, data = data[:_SLICE], data[_SLICE:]
            try:
                self._h2.receive_data(part)
            except ngh2.NGH2Error:  # no HTTP/2, or more of something than anyone needs
                self.abort()
                return
            count += self._handle()
        if count > _TURN_EVENTS or size >= _TURN_BYTES:
            self._turning = True
            self._pipe.pause_reading()
            self._wait_for_turn(data)
            self._wire.readers.wait(self._turn)
        self.sending.soon()

    def _wait_for_turn(self, data: bytes | memoryview) -> None:
        """Keeps what has come, and counts it."""
        budget = self.arrivals.budget
        budget.keep("message", len(data))
        budget.give_back("message", len(self._backlog))
        self._backlog = data

    def _turn(self) -> None:
        self._turning = False
        data = self._backlog
        self._wait_for_turn(b"")
        if not self._pipe.is_closing():
            self._pipe.resume_reading()
            if data and not self._deaf:
                self._take(data)

    def pause_writing(self) -> None:
        """Its caller reads less than he is sent."""
        self.sending.pause()

    def resume_writing(self) -> None:
        """He has read on."""
        self.sending.resume()

    def abort(self) -> None:
        """Closes it at once."""
        self._deaf = True
        self._pipe.abort()

    def end(self) -> None:
        """Ends the calls that are left, and the connection."""
        for call in [*self.calls.values()]:
            self.fail(call, shutting_down())
        self.sending.now()
        self._finish()

    def _finish(self) -> None:
        """Lets the other side close, after it has read all: to close with bytes unread here would
        take the last answers with it."""
        if not self._deaf:
            self._deaf = True
            self.life.linger()
            with suppress(OSError, RuntimeError):  # it is closed already
                self._pipe.write_eof()

    def _handle(self) -> int:
        """Handles the events so far, and returns their number."""
        events = self._h2.events()
        gone: set[int] = set()
        if len(events) > _MANY_EVENTS:
            # Calls that were reset by the read that began them: to make their tasks, and to cancel
            # them one by one, has stopped the event loop for seconds.
            gone = {one.stream_id for one in events if type(one) is ngh2.StreamReset}
        handlers = self._handlers
        for event in events:
            if gone and type(event) is ngh2.RequestReceived and event.stream_id in gone:
                continue
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event)
        return len(events)

    def _data(self, event: ngh2.DataReceived) -> None:
        call = self.calls.get(event.stream_id)
        if call is not None:
            call.arrived(event.data, event.end_stream)
        elif event.data:
            self.sending.release(event.stream_id, len(event.data))

    def _trailers(self, event: ngh2.TrailersReceived) -> None:
        call = self.calls.get(event.stream_id)
        if call is not None:
            call.arrived(b"", end=True)

    def _settings(self, _: ngh2.SettingsReceived) -> None:
        self.life.greeted = True

    def _pinged(self, _: ngh2.PingAcknowledged) -> None:
        self.life.pinged()

    def _stream_closed(self, event: ngh2.StreamClosed | ngh2.StreamReset) -> None:
        call = self.calls.get(event.stream_id)
        if call is not None:
            self._forget(call)

    def _closed(self, event: ngh2.ConnectionClosed) -> None:
        for call in [*self.calls.values()]:  # the other side has broken a rule
            self._forget(call)
        if event.error_code:
            self._deaf = True
            self.life.linger()
            self._loop.call_soon(self._pipe.close)  # after the bytes that came with the event
        else:
            self._loop.call_soon(self._finish)

    def _request(self, event: ngh2.RequestReceived) -> None:
        fields = dict(event.headers)
        refusal = headers.http_refusal(fields)
        if refusal is not None:
            self.sending.refuse(event.stream_id, refusal, ended=event.end_stream)
            return
        call = NativeCall(self, event.stream_id, event.headers, ended=event.end_stream)
        self.calls[call.id] = call
        try:
            method = self._method(fields)
            self._admit(call, fields)
        except End as end:
            self.fail(call, end)
            return
        if method.most is not None:
            call.takes_at_most(method.most)
        if method.unary:
            call.awaits_one()
        call.task = self._loop.create_task(self._run(method, call))

    def _method(self, fields: dict[bytes, bytes]) -> Method:
        """The method of a call. Raises End."""
        path = fields[b":path"]
        method = self._wire.methods.get(path)
        if method is None:
            name = quoted(path.decode("latin-1"))
            raise End(grpc.StatusCode.UNIMPLEMENTED, f"no method {name}")
        headers.check_encoding(fields)
        return method

    def _admit(self, call: NativeCall, fields: dict[bytes, bytes]) -> None:
        """Begins a call. Raises End for headers that no call may have; where it finds no memory,
        its method reads so."""
        seconds = headers.timeout_of(fields)
        if seconds <= 0:
            raise _late()
        if seconds < math.inf:
            call.deadline = time.monotonic() + seconds
            self._deadlines.watch(call.deadline)
        size = headers.size_of(call.headers)
        if size > headers.HEADER_BYTES:
            raise End(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"headers: expected at most {headers.HEADER_BYTES} bytes, got {size}",
            )
        try:
            self.arrivals.open(_CALL_BYTES + size)
        except ServingError as error:
            call.refuse(error)
        else:
            call.overhead = _CALL_BYTES + size

    async def _run(self, method: Method, call: NativeCall) -> None:
        """Answers a call."""
        try:
            answer = await method.run(call)
            if answer is not None and not call.over:
                self.sending.message(call, await call.own(answer))
        except End as end:
            self._close(call, end)
        except Exception as error:
            logger.error("method failed", exc_info=error)
            text = "internal error; the server's log says more"
            self._close(call, End(grpc.StatusCode.INTERNAL, text))
        else:
            if not call.over:
                self.sending.end(call, headers.OK)
        finally:
            call.task = None

    def _close(self, call: NativeCall, end: End) -> None:
        """Ends a call from within its task."""
        call.task = None
        self.fail(call, end)
        without_frames(end)

    def fail(self, call: NativeCall, end: End) -> None:
        """Ends a call with a status, and cancels its task."""
        if call.over:
            return
        self.sending.end(call, headers.trailers_of(end))
        call.drop()
        if call.task is not None:
            call.task.cancel()

    def _forget(self, call: NativeCall) -> None:
        """Ends all that a call had here: its stream is gone."""
        del self.calls[call.id]
        call.close()
        self.sending.give_back(call)
        if call.overhead:
            self.arrivals.budget.give_back("message", call.overhead)
        if not self.calls:
            self.life.quiet = time.monotonic()


def _late() -> End:
    return End(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the answer")
