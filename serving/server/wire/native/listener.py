"""Listens for the connections of the native wire."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies, Readers
from serving.server.config import StartError
from serving.server.listening import BACKLOG, listening, listening_at
from serving.server.tls.certificates import Certificates
from serving.server.tls.stream import TlsStream
from serving.server.wire.cuts import Cuts
from serving.server.wire.interface import Limits, Method
from serving.server.wire.native.arrivals import Arrivals
from serving.server.wire.native.connection import Connection
from serving.server.wire.native.freed import FreedMemory
from serving.server.wire.native.lifetime import Times

# Connections that are looked at in one go; each takes a microsecond, and 0.2 for each call.
_LOOKED_AT = 256
# Seconds in which tasks that were cancelled, and connections that were ended, may do so.
_LAST_SECONDS = 2.0


class NativeWire:
    """A Wire on libnghttp2.

    copies: turns of long copies on the event loop.
    readers: turns of connections on which much has come.
    certificates: for TLS on the port; None for none.
    """

    name = "native"

    def __init__(
        self,
        limits: Limits,
        budget: MemoryBudget,
        copies: Copies,
        metrics: FrontMetrics,
        times: Times = Times(),  # noqa: B008
        certificates: Certificates | None = None,
    ) -> None:
        self.limits, self.copies, self.times = limits, copies, times
        self.readers = Readers()
        self._certificates = certificates
        self.cuts = Cuts(metrics)
        self.arrivals = Arrivals(budget, self.cuts)
        self._freed = FreedMemory(budget)
        self.methods: Mapping[bytes, Method] = {}
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._sites = Counter[str]()
        self._gone = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None

    def bind(self, host: str, port: int) -> int:
        """Opens the port, 0 for a free one, and returns its number. Raises StartError."""
        found = listening("--grpc-port", host, port)
        self._sockets += found
        return int(found[0].getsockname()[1])

    def bind_socket(self, path: Path) -> None:
        """Also listens on a Unix socket. Raises StartError."""
        try:
            self._sockets.append(listening_at(path))
        except OSError as error:
            raise StartError(f"--admin-socket: cannot listen on {path}") from error

    async def start(self, methods: Mapping[str, Method]) -> None:
        """Begins to take calls."""
        self.methods = {path.encode(): method for path, method in methods.items()}
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            if one.family == socket.AF_UNIX:
                made = loop.create_unix_server(lambda: Connection(self), sock=one, backlog=BACKLOG)
            else:
                made = loop.create_server(self._connection, sock=one, backlog=BACKLOG)
            self._servers.append(await made)
        self._sweeper = asyncio.create_task(self._sweep())

    def _connection(self) -> asyncio.Protocol:
        """For a new connection of the port."""
        if self._certificates is None:
            return Connection(self)
        failed = partial(self.cuts.count, "tls")
        return TlsStream(Connection(self), self._certificates, "grpc", failed)

    async def stop(self, grace: float) -> None:
        """Takes no more calls; those under way are ended after `grace` seconds."""
        for server in self._servers:
            server.close()
        if not self._servers:
            for one in self._sockets:
                one.close()
        for connection in [*self._connections]:
            connection.life.retire(grace)
        await self._empty(grace)
        tasks = [call.task for one in self._connections for call in one.calls.values() if call.task]
        for connection in [*self._connections]:
            connection.end()
        await self._empty(self.times.linger)
        for connection in [*self._connections]:
            connection.abort()
        await self._empty(_LAST_SECONDS)
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_SECONDS)
        while self.arrivals.leaving:
            await asyncio.sleep(0)
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _empty(self, seconds: float) -> None:
        """Returns when all connections are closed, or after some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._connections:
                    self._gone.clear()
                    await self._gone.wait()

    def admit(self, connection: Connection) -> bool:
        """Lets a connection in; False where there are too many."""
        site, limits = connection.site, self.limits
        # Whoever may use the Unix socket is not refused for what others do.
        if connection.peer is not None and (
            len(self._connections) >= limits.connections or self._sites[site] >= limits.per_address
        ):
            self.cuts.count("connections")
            return False
        self._connections.add(connection)
        self._sites[site] += 1
        return True

    def leave(self, connection: Connection) -> None:
        """A connection is closed."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._sites[connection.site] -= 1
            if not self._sites[connection.site]:
                del self._sites[connection.site]
            self._gone.set()

    async def _sweep(self) -> None:
        """Looks at all connections again and again."""
        while True:
            await asyncio.sleep(self.times.sweep)
            self.cuts.log()
            await self._freed.look()
            now, short = time.monotonic(), self.arrivals.short
            for number, connection in enumerate([*self._connections], 1):
                connection.life.look(now, short)
                if number % _LOOKED_AT == 0:
                    await asyncio.sleep(0)
