"""What an attack works with: the server's addresses, and calls over both wires."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import grpc

from tests.support.limited import LimitedServer

# Where attackers call from. Limits by address that they meet are not met by honest callers.
ATTACKER = "127.0.0.66"
# Seconds that an attacker waits for an answer, at most.
PATIENCE = 15.0
# Names of objects of shared memory that the server takes begin with this.
SHARED_MEMORY = "convserve-hostile"
VISION = "/convserve.vision.v1.VisionService/"
INFERENCE = "/inference.GRPCInferenceService/"

# Bytes of an answer that are kept.
_KEPT_BYTES = 1 << 16

# One call; the status that came of it.
Attempt = Callable[[], Awaitable[str]]


class Session:
    """One attack on one server.

    server: the server.
    folder: an empty folder, which the server's user may write.
    written: the folder that the server's operator named for files.
    seconds: how long the attack goes on.
    sent, statuses: calls or messages, and what came of them.
    harm: what the attack achieved and ought not to have, in words.
    """

    def __init__(self, server: LimitedServer, folder: Path, written: Path, seconds: float) -> None:
        self.server = server
        self.folder = folder
        self.written = written
        self.seconds = seconds
        self._end: float | None = None
        self.sent = 0
        self.statuses: Counter[str] = Counter()
        self.harm: list[str] = []
        split = urlsplit(server.http)
        self.http = (str(split.hostname), int(split.port or 0))
        host, _, port = server.url.rpartition(":")
        self.grpc = (host, int(port))
        split = urlsplit(server.metrics_url)
        self.metrics = (str(split.hostname), int(split.port or 0))

    def connect(self) -> None:
        """Opens its connection of gRPC on the event loop that runs."""
        unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        # A connection of its own for every attack.
        own = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(self.server.url, options=[*unlimited, *own])

    async def close(self) -> None:
        """Closes its connection."""
        await self._channel.close()

    def count(self, status: str, times: int = 1) -> None:
        """Notes what came of `times` calls."""
        self.sent += times
        self.statuses[status] += times

    @property
    def over(self) -> bool:
        """Whether its time is up, or the server gone. The time begins with the first look."""
        if self._end is None:
            self._end = time.monotonic() + self.seconds
        return time.monotonic() >= self._end or not self.server.alive

    async def repeat(self, *attempts: Attempt, workers: int = 4, most: int = 100_000) -> None:
        """Makes the attempts in turn, `workers` at a time, until the time is up or `most` are
        made; each at least once."""
        turns = itertools.count()
        assert not self.over, "no time, or no server"
        least = max(len(attempts), workers)

        async def work() -> None:
            for turn in turns:
                if turn >= max(most, len(attempts)) or (turn >= least and self.over):
                    return
                self.count(await attempts[turn % len(attempts)]())

        await asyncio.gather(*(work() for _ in range(workers)))

    def unary(
        self, method: str, message: bytes, *, timeout: float = PATIENCE, **options: Any
    ) -> Callable[[], Awaitable[str]]:
        """An attempt to make a gRPC call; its status code."""
        call: Any = self._channel.unary_unary(method)

        async def attempt() -> str:
            try:
                await call(message, timeout=timeout, **options)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return "OK"

        return attempt

    def stream(self, method: str, messages: list[bytes]) -> Callable[[], Awaitable[str]]:
        """An attempt to send the messages over one stream and to read every answer."""
        call: Any = self._channel.stream_stream(method)

        async def attempt() -> str:
            try:
                async for _ in call(iter(messages), timeout=PATIENCE):
                    pass
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return "OK"

        return attempt

    def rest(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        port: tuple[str, int] | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        read: Callable[[bytes], None] | None = None,
    ) -> Callable[[], Awaitable[str]]:
        """An attempt to make a call over REST; its HTTP status. `read` gets what was answered."""
        host, number = port or self.http
        given = {
            "Host": f"{host}:{number}",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        given |= headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        head = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1", "replace")

        async def attempt() -> str:
            answer = await exchange((host, number), head, body)
            if read is not None:
                read(answer)
            return http_status(answer)

        return attempt


def http_status(answer: bytes) -> str:
    """The status of an HTTP answer."""
    if not answer:
        return "closed"
    return answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/1.") else "no HTTP"


async def exchange(
    address: tuple[str, int], *parts: bytes, wait: float = PATIENCE, source: str = ATTACKER
) -> bytes:
    """Sends bytes over a connection of their own; what comes until the server closes it, for `wait`
    seconds at most."""
    answer = bytearray()
    writer = None
    sending: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(wait):
            reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
            # The server may refuse a body before it has come.
            sending = asyncio.create_task(_send(writer, parts))
            while part := await reader.read(1 << 20):
                answer += part if len(answer) < _KEPT_BYTES else b""
    except TimeoutError:
        answer = answer or bytearray(b"HTTP/1.1 no-answer ")
    except OSError:
        pass
    finally:
        if sending is not None:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if writer is not None:
            writer.transport.abort()
    return bytes(answer)


async def _send(writer: asyncio.StreamWriter, parts: Iterable[bytes]) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()
