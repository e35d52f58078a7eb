"""Connections of an HTTP port: how many there may be, and how long each may take for what.

aiohttp bounds only how long a connection may be idle. The rest is done in its class of a
connection, for which it has no public way: hence the names with an underscore.
"""

import asyncio
import ipaddress
import json
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple, cast

from aiohttp import web

from serving.server.config import ServerConfig
from serving.server.http.errors import unreadable

# Bytes a second below which a body that arrives, or an answer that is read, is too slow. Lower lets
# callers hold memory for longer, higher cuts callers on bad lines.
SLOWEST_RATE = 64 << 10
# The bytes of a head that comes in pieces, and of requests sent ahead of an answer. More let a
# connection hold more memory that no budget counts; heads of clients have a few hundred.
_MOST_AHEAD = 64 << 10
# Connections beyond the limit that are answered questions of health alone.
_SPARE = 16
# Connections that a newcomer may take the place of are looked for among so many of the oldest.
# More find an idle one more often and make each newcomer dearer.
_LOOKED_AT = 16


# In the order in which they were let in or, later, passed over.
_Crowd = dict["Connection", None]


class HttpLimits(NamedTuple):
    """What callers of a port may take.

    connections, per_address: connections at a time, in all and of one address.
    head: seconds from the first byte of a request, or from connecting, to the end of its head.
    idle: seconds between an answer and the next request.
    transfer: seconds in which a body must arrive, and an answer be read, beside a second for every
        SLOWEST_RATE bytes of it.
    stall: seconds in which some bytes of it must pass.
    """

    connections: int = 1024
    per_address: int = 512
    head: float = 10.0
    idle: float = 75.0
    transfer: float = 30.0
    stall: float = 10.0

    @classmethod
    def of(cls, config: ServerConfig) -> "HttpLimits":
        """The limits that a config sets."""
        return cls(
            config.max_connections,
            config.connections_per_address,
            config.http_head_seconds,
            config.http_idle_seconds,
            config.http_transfer_seconds,
            config.http_stall_seconds,
        )


class Connections:
    """The open connections of a port. `refused` counts what was refused or cut, by reason.

    A newcomer beyond a limit takes the place of a connection that waits for a request: of the same
    address where that has too many, else of any. Where none waits, it is let in to ask for health,
    in the place of another of this kind if need be. Callers on a Unix socket are counted as one
    address, and those of the network take nothing from them.
    """

    def __init__(self, limits: HttpLimits, refused: Callable[[str], None]) -> None:
        self.limits = limits
        self.refused = refused
        self._all: _Crowd = {}
        self._of: dict[str, _Crowd] = {}
        self._spare: _Crowd = {}

    def __len__(self) -> int:
        return len(self._all) + len(self._spare)

    def admit(self, newcomer: "Connection") -> bool:
        """Whether there is place for a connection; it is counted then, until it leaves."""
        neighbours = self._of.get(newcomer.address, {})
        crowd = None
        if len(neighbours) >= self.limits.per_address:
            crowd = neighbours
        elif newcomer.address and len(self._all) >= self.limits.connections:
            crowd = self._all
        if crowd is None or self._make_room(crowd):
            self._of.setdefault(newcomer.address, {})[newcomer] = None
            self._all[newcomer] = None
            return True
        self.refused("connections")
        if len(self._spare) >= _SPARE and not self._make_room(self._spare):
            return False
        self._spare[newcomer] = None
        newcomer.spare = True
        return True

    def leave(self, one: "Connection") -> None:
        """Forgets a connection, if it was let in."""
        self._spare.pop(one, None)
        if one not in self._all:
            return
        del self._all[one]
        neighbours = self._of[one.address]
        del neighbours[one]
        if not neighbours:
            del self._of[one.address]

    def _make_room(self, crowd: "_Crowd") -> bool:
        """Closes an idle connection, rather one that has asked for nothing since the last look."""
        chosen = None
        for one in list(islice(crowd, _LOOKED_AT)):
            if one.idle and not one.used:
                chosen = one
                break
            if one.idle and chosen is None:
                chosen = one
            one.used = False
            del crowd[one]
            crowd[one] = None
        if chosen is None:
            return False
        self.refused("idle")
        self.leave(chosen)
        chosen.force_close()
        return True


class Connection(web.RequestHandler):
    """A connection that keeps its limits.

    address: the caller's, of IPv6 its network, which one caller has whole; empty on a Unix socket.
    used: it has asked for something since it was last looked at.
    spare: it is one too many, and is answered about health alone.
    answer_size: bytes of the answer under way, where it is large.
    when_sent: called when the answer under way has been read, or its caller has left.
    """

    __slots__ = (
        "_ahead", "_connections", "_head_alarm", "_pipe", "_read_by", "_request", "_unread",
        "_write_alarm", "address", "answer_size", "spare", "used", "when_sent",
    )  # fmt: skip

    def __init__(self, manager: web.Server, connections: Connections, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._connections = connections
        self._head_alarm: asyncio.TimerHandle | None = None
        self._write_alarm: asyncio.TimerHandle | None = None
        self._request: web.BaseRequest | None = None
        self._ahead = 0
        self._unread = 0
        self._read_by = 0.0
        self.address = ""
        self.used = False
        self.spare = False
        self.answer_size = 0
        self.when_sent: Callable[[], None] | None = None

    @property
    def limits(self) -> HttpLimits:
        """The limits of its port."""
        return self._connections.limits

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
        peer = transport.get_extra_info("peername")
        self.address = _site(peer[0]) if isinstance(peer, tuple) else ""
        if not self._connections.admit(self):
            self._refuse(503, "too many connections: try again later")
            return
        if self.spare:
            self._lingering_time = 0.0
        # Any byte that the system does not take pauses the writer, whose time then counts.
        pipe.set_write_buffer_limits(high=0)
        super().connection_made(transport)
        # Kept by aiohttp from here on: of a connection that is lost it would be None, as on a Unix
        # socket.
        assert self.peername == peer
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
        self._ahead = 0
        self._read_by = 0.0
        self.answer_size = 0

    def data_received(self, data: bytes) -> None:
        """Reads on, and sees to it that a head comes to its end."""
        if self._request_in_progress:
            ahead = self._request is not None and self._request.content.is_eof()
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
        return unreadable(status, message, exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Writes an answer, and waits until the system has taken all of it."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            if self.when_sent is not None:
                self.when_sent()
                self.when_sent = None

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Logs what goes wrong between requests, unless the caller did it: a bad body that no route
        has read, or leaving."""
        caller_did = web.RequestPayloadError | ConnectionError
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
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        self.force_close()
        self._pipe.close()


def _site(address: str) -> str:
    """An IPv4 address, also one written as IPv6, or the /64 network of an IPv6 address."""
    if ":" not in address:
        return address
    whole = ipaddress.IPv6Address(address.partition("%")[0])
    return str(whole.ipv4_mapped or ipaddress.IPv6Network((int(whole) >> 64 << 64, 64)))
