"""A port that serves an application over HTTP."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from serving.base.errors import RequestTooLarge, RequestTooSlow
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.server.access.caller import API_KEY, AUTHORIZATION, Caller
from serving.server.http.body import LARGEST
from serving.server.http.connection import Connection
from serving.server.http.connections import Connections, HttpLimits
from serving.server.http.errors import failure
from serving.server.http.origin import Hosts, check_origin, is_trusted
from serving.server.http.pieces import SMALL, Pieces
from serving.server.listening import BACKLOG, listening
from serving.server.tls.certificates import Certificates
from serving.server.tls.stream import TlsStream

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# Paths that a spare connection, one beyond the limit, may ask for.
_HEALTH = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
# Reasons for the metric by the status of a refusal. Others are the call's own, which counts them.
_REASONS = {403: "origin", 408: "body", 415: "content_type", 421: "host"}
_COUNTED = (web.HTTPException, RequestTooSlow)
# Seconds for which a body that nobody wants is read on, so that its sender sees the answer.
_LINGER_SECONDS = 1.0


def caller_of(request: web.BaseRequest) -> Caller:
    """Who sent a request."""
    authorization = ",".join(request.headers.getall(AUTHORIZATION, ()))
    key = ",".join(request.headers.getall(API_KEY, ()))

    def header(name: str) -> Sequence[str]:
        return request.headers.getall(name, ())

    if is_trusted(request):
        return Caller(None, authorization, api_key=key, header=header)
    # An address of IPv4 as itself, also on a socket of IPv6: it is the owner of regions.
    address = (request.remote or "").removeprefix("::ffff:")
    transport = request.transport
    certificate = None if transport is None else transport.get_extra_info("certificate")
    return Caller(address, authorization, certificate, key, header)


class HttpPort:
    """Serves `app`. Its requests pass a door: their connections keep `limits`, they call the port
    by one of `hosts` (None: any), and no web page of another origin sends them; large answers count
    in the budget (None: in none) until they are read; with certificates it speaks TLS.

    name: the port's in the metrics; its flag, for errors, is --NAME-port.
    """

    def __init__(
        self,
        name: Literal["http", "metrics"],
        app: web.Application,
        limits: HttpLimits,
        metrics: FrontMetrics,
        budget: MemoryBudget | None,
        hosts: Hosts | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._name = name
        self._certificates = certificates
        self._budget = budget
        self._hosts = hosts
        self._largest = app[LARGEST]
        self._refused: Callable[[str], None] = partial(metrics.http_refused.count, name)
        connections = Connections(limits, self._refused)
        metrics.connections.labels(name).set_function(connections.__len__)
        self._runner = _Runner(app, self._answer, connections)

    async def listen(self, host: str, port: int) -> int:
        """Opens the port, 0 for a free one, and returns its number. Raises StartError."""
        await self._runner.setup()
        sockets = listening(f"--{self._name}-port", host, port)
        for one in sockets:
            await self._site(one).start()
        return int(sockets[0].getsockname()[1])

    def _site(self, listens: socket.socket) -> web.SockSite:
        if self._certificates is None:
            return web.SockSite(self._runner, listens, backlog=BACKLOG)
        failed = partial(self._refused, "tls")
        return _TlsSite(self._runner, listens, self._certificates, self._name, failed)

    async def listen_on_socket(self, path: Path) -> None:
        """Also listens on a Unix socket, once the port is open. Raises OSError."""
        await web.UnixSite(self._runner, path).start()

    async def close(self, grace: float, last: float) -> None:
        """Closes the port. After `grace` seconds the connections of requests under way are cut,
        which ends them unless they wait for an engine; it all takes `last` seconds more at most."""
        alarm = asyncio.get_running_loop().call_later(grace, self._cut)
        # aiohttp's own timeout applies to each of several stages, so this one bounds their sum.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._runner.cleanup(), grace + last)
        alarm.cancel()

    def _cut(self) -> None:
        server = self._runner.server
        for connection in server.connections if server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def _answer(self, handle: _Handle, request: web.BaseRequest) -> web.StreamResponse:
        """The answer of the application, or to whatever stood in its way."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.begin(request)
        response: web.StreamResponse
        try:
            self._check(connection, request)
            response = await handle(request)
            self._count(connection, response)
        except Exception as error:
            response = failure(error, request.path)
            if response.status in _REASONS and isinstance(error, _COUNTED):
                self._refused(_REASONS[response.status])
            if not request.content.is_eof():
                response.force_close()
        if connection.spare:
            response.force_close()
        if request.content.exception() is not None:
            # Nobody knows where the next request begins: the caller is told to connect anew, and
            # aiohttp that there is no rest of the body to wait for.
            response.force_close()
            request.content.feed_eof()
        return response

    def _check(self, connection: Connection, request: web.BaseRequest) -> None:
        if connection.spare and request.path not in _HEALTH:
            raise web.HTTPServiceUnavailable(reason="too many connections: try again later")
        check_origin(request, self._hosts)
        if (request.content_length or 0) > self._largest:
            raise RequestTooLarge(f"body: more than {self._largest} bytes")

    def _count(self, connection: Connection, response: web.StreamResponse) -> None:
        """Counts a large answer until it is read. It is there already, and its call has ended."""
        if not isinstance(response, web.Response):
            return
        body = response.body
        if isinstance(body, bytes) and len(body) > SMALL:
            body = response.body = Pieces([body])
        if isinstance(body, Pieces):
            connection.answer_size = body.length
            if self._budget is not None:
                self._budget.keep("answer", body.length)
                connection.when_sent = partial(self._budget.give_back, "answer", body.length)


class _Server(web.Server):
    def __init__(self, connections: Connections, handle: _Handle, **settings: Any) -> None:
        # A call ends where its caller leaves: what it waits for and holds is for others then.
        super().__init__(handle, handler_cancellation=True, **settings)
        self._of_port = connections

    def __call__(self) -> Connection:
        return Connection(self, self._of_port, loop=self._loop, **self._kwargs)


class _TlsSite(web.SockSite):
    """A socket with TLS of ours. aiohttp has no public way to choose another than asyncio's."""

    __slots__ = ("_tls",)

    def __init__(
        self,
        runner: "_Runner",
        listens: socket.socket,
        certificates: Certificates,
        name: Literal["http", "metrics"],
        failed: Callable[[], None],
    ) -> None:
        super().__init__(runner, listens, backlog=BACKLOG)
        self._tls = certificates, name, failed

    async def start(self) -> None:
        """Begins to take connections."""
        await web.BaseSite.start(self)
        make = self._runner.server
        assert make is not None
        self._server = await asyncio.get_running_loop().create_server(
            lambda: TlsStream(make(), *self._tls), sock=self._sock, backlog=self._backlog
        )


class _Runner(web.AppRunner):
    """Runs an application on our connections. aiohttp has no public way to choose their class."""

    __slots__ = ("_answer", "_connections")

    def __init__(
        self,
        app: web.Application,
        answer: Callable[[_Handle, web.BaseRequest], Awaitable[web.StreamResponse]],
        connections: Connections,
    ) -> None:
        limits = connections.limits
        super().__init__(
            app,
            access_log=None,
            auto_decompress=False,  # read_body does it
            keepalive_timeout=limits.idle,
            lingering_time=_LINGER_SECONDS,
        )
        self._answer = answer
        self._connections = connections

    async def _make_server(self) -> _Server:
        made = await super()._make_server()
        return _Server(
            self._connections,
            partial(self._answer, made.request_handler),
            request_factory=made.request_factory,
            loop=made._loop,
            **made._kwargs,
        )
