"""TLS of a port of HTTP: what is bounded without it is bounded with it."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.server.http.body import LARGEST
from serving.server.http.connections import HttpLimits
from serving.server.http.port import HttpPort, caller_of
from tests.support.certified import CLIENT_NAMES, Certified

MIB = 1 << 20
LARGE = bytes(range(256)) * (8 * MIB // 256)
PATIENCE = 20.0
ASK = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def made(tmp_path: Path) -> Certified:
    return Certified(tmp_path / "tls")


class Port:
    """A port that runs, and what it counts."""

    def __init__(self, made: Certified, limits: HttpLimits, *, mutual: bool) -> None:
        self.made = made
        self.metrics = FrontMetrics()
        self.budget = MemoryBudget(64 * MIB)
        app = web.Application()
        app[LARGEST] = 1 << 20
        app.router.add_get("/large", self._large)
        app.router.add_get("/names", self._names)
        app.router.add_post("/echo", self._echo)
        certificates = made.certificates(mutual=mutual)
        self.port = HttpPort(
            "http", app, limits, self.metrics, self.budget, certificates=certificates
        )
        self.number = 0

    async def _large(self, _: web.Request) -> web.Response:
        return web.Response(body=LARGE)

    async def _names(self, request: web.Request) -> web.Response:
        return web.json_response(caller_of(request).certificate)

    async def _echo(self, request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    def refused(self, reason: str) -> float:
        return self.metrics.http_refused.labels("http", reason).value

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)  # no event tells

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = self.made.tls.context()
        return await asyncio.open_connection("127.0.0.1", self.number, ssl=context)


@contextlib.asynccontextmanager
async def running(made: Certified, *, mutual: bool = False, **limits: float) -> AsyncIterator[Port]:
    port = Port(made, HttpLimits()._replace(**limits), mutual=mutual)  # type: ignore[arg-type]
    port.number = await port.port.listen("127.0.0.1", 0)
    try:
        yield port
    finally:
        await port.port.close(0.1, 1.0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    uvloop.run(whole())


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return await reader.readexactly(length)


def test_large_answers_and_bodies_come_whole_over_one_connection(made: Certified) -> None:
    async def test() -> None:
        async with running(made) as port:
            reader, writer = await port.connect()
            for _ in range(2):
                writer.write(ASK % b"large")
                assert await answer(reader) == LARGE
                body = LARGE[: MIB - 1]
                writer.write(b"POST /echo HTTP/1.1\r\nHost: localhost\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
                assert await answer(reader) == body
            writer.close()
            await port.until(lambda: port.budget.used == 0)

    run(test)


def test_an_answer_that_nobody_reads_is_counted_in_the_budget_and_cut(made: Certified) -> None:
    async def test() -> None:
        async with running(made, stall=0.3) as port:
            loop = asyncio.get_running_loop()
            plain = socket.create_connection(("127.0.0.1", port.number), PATIENCE)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            context = made.tls.context()
            secured = await loop.run_in_executor(
                None, lambda: context.wrap_socket(plain, server_hostname="localhost")
            )
            with secured:
                await loop.run_in_executor(None, secured.sendall, ASK % b"large")
                await port.until(lambda: port.budget.used >= len(LARGE))
                await port.until(lambda: port.refused("answer") == 1)
                await port.until(lambda: port.budget.used == 0)

    run(test)


def test_handshakes_under_way_count_as_connections(made: Certified) -> None:
    async def test() -> None:
        async with running(made, connections=4, head=0.3) as port:
            waiting = [await asyncio.open_connection("127.0.0.1", port.number) for _ in range(3)]
            shown = port.metrics.connections.labels("http")
            await port.until(lambda: shown.numbers()[0] == 3)
            for reader, writer in waiting:
                assert await reader.read() == b""
                writer.close()
            assert port.refused("head") == 3
            await port.until(lambda: shown.numbers()[0] == 0)

    run(test)


def test_a_handshake_that_fails_is_counted_and_told_by_an_alert(made: Certified) -> None:
    async def test() -> None:
        async with running(made, mutual=True) as port:
            context = made.stranger.context()
            reader, writer = await asyncio.open_connection("127.0.0.1", port.number, ssl=context)
            with pytest.raises(ssl.SSLError, match="ALERT_UNKNOWN_CA"):
                await reader.read()
            writer.close()
            assert port.refused("tls") == 1

    run(test)


def test_a_handler_knows_the_names_of_its_caller(made: Certified) -> None:
    async def test() -> None:
        async with running(made, mutual=True) as port:
            reader, writer = await port.connect()
            writer.write(ASK % b"names")
            found = (await answer(reader)).decode()
            writer.close()
            assert all(name in found for name in CLIENT_NAMES)

    run(test)


def test_the_port_closes_with_connections_open_and_handshakes_under_way(made: Certified) -> None:
    async def test() -> None:
        async with running(made) as port:
            reader, writer = await port.connect()
            writer.write(ASK % b"names")
            await answer(reader)
            handshaking, other = await asyncio.open_connection("127.0.0.1", port.number)
        assert await reader.read() == b""
        assert await handshaking.read() == b""
        writer.close()
        other.close()

    run(test)
