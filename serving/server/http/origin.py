"""Whether a request may come from a web page, and whether it may be answered then.

A page that somebody has open in a browser can send requests to whatever the browser reaches. Three
checks stop it. The name by which it calls the server must be the server's: a page whose own name
was bound to this address keeps that name. Its origin must be the server. And what changes state
needs a content type that a page cannot send to another origin without asking first.
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache, wraps

from aiohttp import web

from serving.base.errors import quoted
from serving.server.http.connection import Connection

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Host headers whose outcome is remembered. Few names reach one server.
_REMEMBERED = 256
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
# Where a browser says that a request comes from: a page of the same origin, or the user himself.
_OWN_SITE = frozenset({"same-origin", "none"})


class Hosts:
    """The names by which callers may reach a port: addresses, localhost, this machine's name, and
    `names`, where `*.example.com` stands for every name below it and `*` for all."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        given = {name.strip().lower().removesuffix(".") for name in names} - {""}
        own = socket.gethostname().lower()
        self._names = {"localhost", own, own.partition(".")[0]} | given
        self._below = tuple(name[1:] for name in given if name.startswith("*."))
        self._any = "*" in given
        self.allows = lru_cache(_REMEMBERED)(self._allows)

    def _allows(self, host: str) -> bool:
        if self._any:
            return True
        if host.startswith("["):
            name, closed, port = host[1:].partition("]")
            literal = bool(closed) and (not port or port.startswith(":"))
            return literal and _is_port(port[1:]) and _is_address(name)
        name, _, port = host.partition(":")
        name = name.lower().removesuffix(".")
        return _is_port(port) and (
            name in self._names or name.endswith(self._below) or _is_address(name)
        )


def check_origin(request: web.BaseRequest, hosts: Hosts | None) -> None:
    """Raises web.HTTPException for a name that is not among `hosts`, and for a request that
    reads nothing alone and comes from a page of another origin. None allows every name."""
    if is_trusted(request):
        return
    headers = request.headers
    # aiohttp refuses a request with two of them.
    host = headers.get("Host")
    if host is None:
        if request.version >= (1, 1):
            raise web.HTTPBadRequest(reason="expected a Host header")
        host = ""
    elif hosts is not None and not hosts.allows(host):
        raise web.HTTPMisdirectedRequest(
            reason=f"Host {quoted(host)} is no name of this server; --http-hosts adds names"
        )
    if request.method in _READING:
        return
    if "Origin" in headers:
        for origin in headers.getall("Origin"):
            if origin.partition("://")[2].lower() != host.lower():
                raise web.HTTPForbidden(
                    reason=f"Origin {quoted(origin)} is not this server, {quoted(host)}: pages of "
                    "other origins may not call it"
                )
    if "Sec-Fetch-Site" in headers:
        for site in headers.getall("Sec-Fetch-Site"):
            if site not in _OWN_SITE:
                raise web.HTTPForbidden(
                    reason=f"Sec-Fetch-Site {quoted(site)}: pages of other origins may not call "
                    "this server"
                )


def json_only(handler: Handler) -> Handler:
    """A handler of what changes state: it takes application/json, or what comes with a token. A
    page of another origin can send neither without being allowed to first."""

    @wraps(handler)
    async def checked(request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Content-Type", "")
        is_json = given.partition(";")[0].strip().lower() == "application/json"
        if not (is_json or _has_token(request) or is_trusted(request)):
            raise web.HTTPUnsupportedMediaType(
                reason=f"Content-Type: expected application/json, got {quoted(given)}"
            )
        return await handler(request)

    return checked


def is_trusted(request: web.BaseRequest) -> bool:
    """Whether no page can have sent a request: its caller is on a Unix socket, which no browser
    reaches."""
    connection = request.protocol
    return isinstance(connection, Connection) and connection.local


def _has_token(request: web.BaseRequest) -> bool:
    """Whether a request brings a token, whoever's: browsers add none by themselves."""
    return request.headers.get("Authorization", "")[:7].lower() == "bearer "


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return len(text) <= 5 and (not text or text.isdecimal())
