"""Attacks by connections: many of them, slow ones, and ones that never read."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

from benchmarks.serving.hostile.session import ATTACKER, Session, exchange, http_status
from benchmarks.serving.hostile.tensors import LARGE

_MIB = 1 << 20
# Descriptors that a server may have in the attacks that take them all; Debian's default.
FILES = 1024
# Seconds between two bytes of a sender that trickles.
_TRICKLE_SECONDS = 0.2


class Sockets:
    """Connections that an attack opens and keeps.

    opened: that the server has accepted, or its kernel for it.
    refused: that it has not.
    """

    def __init__(self) -> None:
        self.opened: list[socket.socket] = []
        self.refused = 0

    async def open(self, address: tuple[str, int], count: int, first: bytes = b"") -> None:
        """Opens `count` more, each of which sends `first`."""
        loop = asyncio.get_running_loop()
        for number in range(count):
            made = socket.socket()
            made.setblocking(False)
            # Each address has ports for all of them, and limits by address meet one attacker.
            made.bind((ATTACKER, 0))
            try:
                async with asyncio.timeout(1.0):
                    await loop.sock_connect(made, address)
                    if first:
                        await loop.sock_sendall(made, first)
            except (OSError, TimeoutError):
                made.close()
                self.refused += 1
                if self.refused > 50:
                    self.refused += count - number - 1
                    return
                continue
            self.opened.append(made)

    def left(self) -> tuple[int, int]:
        """Connections that are still open, and those that the server has closed."""
        closed = sum(map(_is_closed, self.opened))
        return len(self.opened) - closed, closed

    def close(self) -> None:
        """Closes all."""
        for opened in self.opened:
            opened.close()


def _is_closed(opened: socket.socket) -> bool:
    try:
        while part := opened.recv(1 << 16):
            del part
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextlib.asynccontextmanager
async def held(session: Session) -> AsyncIterator[Sockets]:
    """Connections that are counted, and closed, at the end of the block."""
    sockets = Sockets()
    try:
        yield sockets
    finally:
        still, closed = sockets.left()
        for status, times in (("open", still), ("closed", closed), ("refused", sockets.refused)):
            if times:
                session.count(status, times)
        sockets.close()


async def until_over(session: Session) -> None:
    """Waits for the end of the attack."""
    while not session.over:
        await asyncio.sleep(0.05)


async def half_heads(session: Session) -> None:
    """2,000 heads of requests that never end, and 300 connections that say nothing."""
    async with held(session) as sockets:
        await sockets.open(session.http, 300)
        await sockets.open(session.http, 2000, b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        await until_over(session)


async def idle(session: Session) -> None:
    """More connections than the server has descriptors, on its REST port; then metrics and health
    are asked for."""
    await _idle(session, session.http)


async def idle_grpc(session: Session) -> None:
    """The same on its gRPC port."""
    await _idle(session, session.grpc)


async def idle_metrics(session: Session) -> None:
    """The same on its metrics port."""
    await _idle(session, session.metrics)


async def _idle(session: Session, address: tuple[str, int]) -> None:
    async with held(session) as sockets:
        await sockets.open(address, FILES + 200)
        for name, port, path in (
            ("health", session.http, "/livez"),
            ("metrics", session.metrics, "/metrics"),
        ):
            head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
            status = http_status(await exchange(port, head, wait=3.0, source="127.0.0.1"))
            if status != "200":
                session.harm.append(f"{name} got {status}")
        await until_over(session)


async def held_bodies(session: Session) -> None:
    """64 bodies of which 30 of 31 MiB come, and nothing more; and 64 of which a byte comes now and
    then."""
    head = (
        b"POST /v2/models/colours/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    )
    begun = head % (LARGE * _MIB)

    async def hold() -> None:
        wait = max(1.0, session.seconds)
        answer = await exchange(session.http, begun, bytes(30 * _MIB), wait=wait)
        session.count(http_status(answer))

    async def trickle() -> None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(*session.http, local_addr=(ATTACKER, 0))
            writer.write(begun)
            while not session.over and not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(_TRICKLE_SECONDS)
            writer.transport.abort()
        session.count("trickled")

    await asyncio.gather(*(hold() for _ in range(64)), *(trickle() for _ in range(64)))


async def chunked_bodies(session: Session) -> None:
    """Bodies in chunks without end, of one byte each and of one MiB each."""
    head = b"POST /v2/models/colours/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"

    async def send(chunk: bytes, most: int) -> None:
        wait = max(1.0, session.seconds)
        answer = await exchange(session.http, head, *[chunk] * most, wait=wait)
        session.count(http_status(answer))

    small = b"1\r\n \r\n" * 10_000
    large = b"100000\r\n" + bytes(_MIB) + b"\r\n"
    await asyncio.gather(
        *(send(small, 100) for _ in range(4)), *(send(large, 200) for _ in range(8))
    )


async def slow_readers(session: Session) -> None:
    """Large answers that nobody reads, on 64 connections, and 150 MB of requests in a row for
    them."""
    size = 16 * _MIB
    tensor = {"name": "in_UINT8", "datatype": "UINT8", "shape": [size]}
    document = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": size}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    head = (
        f"POST /v2/models/identity-UINT8/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Length: {len(document) + size}\r\n"
        f"Inference-Header-Content-Length: {len(document)}\r\n\r\n"
    ).encode()
    line = b"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

    async def ask(*parts: bytes) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            opened = socket.socket()
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            opened.setblocking(False)
            opened.bind((ATTACKER, 0))
            loop = asyncio.get_running_loop()
            with opened:
                async with asyncio.timeout(max(1.0, session.seconds)):
                    await loop.sock_connect(opened, session.http)
                    for part in parts:
                        await loop.sock_sendall(opened, part)
                    await until_over(session)
        session.count("unread")

    many = [line * 20_000] * 250
    body = bytes(size)
    await asyncio.gather(*(ask(head, document, body) for _ in range(64)), ask(*many), ask(*many))


async def header_floods(session: Session) -> None:
    """10,000 headers, a header and a path of one MiB, 10,000 requests in a row of bytes that are no
    HTTP."""
    host = b"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    lines = b"".join(b"X-%d: a\r\n" % number for number in range(10_000))
    heads = (
        host + lines + b"\r\n",
        host + b"X: " + b"a" * _MIB + b"\r\n\r\n",
        b"GET /" + b"a" * _MIB + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        host + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        host + b"Content-Length: -1\r\n\r\n",
        host + b"Transfer-Encoding: gzip, chunked\r\nContent-Length: 5\r\n\r\n",
        b"\x16\x03\x01" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100_000),
    )

    def attempt(head: bytes):  # type: ignore[no-untyped-def]
        async def send() -> str:
            return http_status(await exchange(session.http, head, wait=5.0))

        return send

    await session.repeat(*map(attempt, heads), workers=4, most=2000)


ATTACKS = (
    half_heads,
    idle,
    idle_grpc,
    idle_metrics,
    held_bodies,
    chunked_bodies,
    slow_readers,
    header_floods,
)
