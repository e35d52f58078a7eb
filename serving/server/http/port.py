"""A port that serves an application over HTTP."""

import asyncio
import contextlib
import socket
from pathlib import Path

from aiohttp import web

from serving.server.config import StartError
from serving.server.endpoints.front import Caller
from serving.server.http.errors import JsonRunner


def caller_of(request: web.BaseRequest) -> Caller:
    """Who sent a request. A connection that is gone is not taken for one on the admin socket."""
    authorization = ",".join(request.headers.getall("Authorization", ()))
    transport = request.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is not None and connection.family == socket.AF_UNIX:
        return Caller(None, authorization)
    # An address of IPv4 as itself, also on a socket of IPv6: it is the owner of regions.
    return Caller((request.remote or "").removeprefix("::ffff:"), authorization)


class HttpPort:
    """Serves `app`. `flag` is the setting of its port, for errors."""

    def __init__(self, flag: str, app: web.Application) -> None:
        self._flag = flag
        self._runner = JsonRunner(app, access_log=None)

    async def listen(self, host: str, port: int) -> int:
        """Opens the port and returns its number. Raises StartError."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise StartError(
                f"{self._flag}: cannot listen on {host}:{port}: {error.strerror}"
            ) from error
        return int(self._runner.addresses[0][1])

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
