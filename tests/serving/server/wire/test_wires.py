"""What every wire does for the methods that it carries, as callers of gRPC see it."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.server.config import StartError
from serving.server.config_sources import load_config
from serving.server.wire import native_missing, wire_for
from serving.server.wire.interface import LARGE_ANSWER, Buffer, Call, End, Method, Peer, Wire

MIB = 1 << 20
BUDGET = MemoryBudget(1 << 30)
SERVICE = "/tests.Wires/"

pytestmark = pytest.mark.usefixtures("wire")


def made(**settings: Any) -> Wire:
    """The wire under test."""
    config = load_config({"model_repository": Path(), **settings})
    return wire_for(config, BUDGET, Copies(), FrontMetrics())


class Methods:
    """What is called, and what has become of it."""

    def __init__(self) -> None:
        self.begun, self.release = asyncio.Event(), asyncio.Event()
        self.cancelled = asyncio.Event()
        self.seen: list[Any] = []

    def by_path(self) -> dict[str, Method]:
        """Those of one message, and the streams."""
        unary = (self.echo, self.view, self.fail, self.broken, self.wait, self.about, self.nothing)
        streams = (self.chat, self.last, self.fail_later)
        found = {run.__name__: Method(run, unary=True) for run in unary}
        found |= {run.__name__: Method(run, unary=False) for run in streams}
        return {SERVICE + name: method for name, method in found.items()}

    async def echo(self, call: Call) -> Buffer | None:
        return await call.read()

    async def view(self, call: Call) -> Buffer:
        message = await call.read()
        assert message is not None
        return memoryview(bytearray(message))[1:]

    async def nothing(self, call: Call) -> Buffer:
        return b"" if await call.read() is None else b"a message"

    async def fail(self, call: Call) -> Buffer:
        await call.read()
        raise End(grpc.StatusCode.NOT_FOUND, "no\n\N{SNOWMAN} %", b"\0details")

    async def broken(self, call: Call) -> Buffer:
        await call.read()
        raise ValueError("secret")

    async def wait(self, call: Call) -> Buffer:
        await call.read()
        self.begun.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"done"

    async def about(self, call: Call) -> Buffer:
        await call.read()
        self.seen = [call.peer, call.metadata("x-many"), call.metadata("x-none"), call.deadline]
        return b""

    async def chat(self, call: Call) -> Buffer | None:
        while (message := await call.read()) is not None:
            await call.write(message)
        return None

    async def last(self, call: Call) -> Buffer:
        await call.write(b"first")
        return b"last"

    async def fail_later(self, call: Call) -> Buffer | None:
        await call.write(b"first")
        raise End(grpc.StatusCode.ABORTED, "later")


@asynccontextmanager
async def served(
    socket: Path | None = None, **settings: Any
) -> AsyncIterator[tuple[grpc.aio.Channel, Methods, Wire]]:
    """A wire with these methods, and a channel to it."""
    methods, wire = Methods(), made(**settings)
    target = f"127.0.0.1:{wire.bind('127.0.0.1', 0)}"
    if socket is not None:
        wire.bind_socket(socket)
        target = f"unix:{socket}"
    await wire.start(methods.by_path())
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(target, options) as channel:
            yield channel, methods, wire
    finally:
        await wire.stop(0)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(body(), 20)

    asyncio.run(bounded())


def unary(channel: grpc.aio.Channel, name: str, message: bytes = b"x", **options: Any) -> Any:
    method: Any = channel.unary_unary(SERVICE + name)
    return method(message, timeout=options.pop("timeout", 10), **options)


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def test_messages_of_every_size_come_and_go() -> None:
    async def body() -> None:
        async with served() as (channel, _, _wire):
            for size in (0, 1, 16 << 10, LARGE_ANSWER, 5 * MIB):
                message = bytes(range(256)) * (size // 256) + bytes(size % 256)
                assert await unary(channel, "echo", message) == message
            assert await unary(channel, "view", b"abc") == b"bc"
            stream: Any = channel.stream_stream(SERVICE + "chat")
            sent = [bytes([number]) * number * 1000 for number in range(100)]
            assert [answer async for answer in stream(iter(sent), timeout=10)] == sent
        assert BUDGET.used == 0

    run(body)


def test_a_stream_takes_turns_and_ends_with_its_last_message() -> None:
    async def body() -> None:
        async with served() as (channel, _, _wire):
            method: Any = channel.stream_stream(SERVICE + "chat")
            stream = method(timeout=10)
            for word in (b"one", b"", b"three"):
                await stream.write(word)
                assert await stream.read() == word
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
            last: Any = channel.stream_stream(SERVICE + "last")
            assert [answer async for answer in last(timeout=10)] == [b"first", b"last"]

    run(body)


def test_status_message_and_details_are_those_of_the_end() -> None:
    async def body() -> None:
        async with served() as (channel, _, _wire):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unary(channel, "fail")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert caught.value.details() == "no\n\N{SNOWMAN} %"
            trailers = dict(caught.value.trailing_metadata())
            assert trailers["grpc-status-details-bin"] == b"\0details"
            method: Any = channel.stream_stream(SERVICE + "fail_later")
            stream = method(timeout=10)
            assert await stream.read() == b"first"
            assert await status(stream.read()) == (grpc.StatusCode.ABORTED, "later")

    run(body)


def test_a_fault_of_the_server_ends_its_call_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with served() as (channel, _, _wire):
            code, text = await status(unary(channel, "broken"))
            assert code is grpc.StatusCode.INTERNAL
            assert "secret" not in text
            assert await unary(channel, "echo", b"on") == b"on"

    with caplog.at_level(logging.ERROR):
        run(body)
    assert "secret" in caplog.text


def test_what_is_not_there_is_unimplemented() -> None:
    async def body() -> None:
        async with served() as (channel, _, _wire):
            for path in (SERVICE + "none", "/tests.Other/echo", "/x"):
                method: Any = channel.unary_unary(path)
                code, _ = await status(method(b"x", timeout=10))
                assert code is grpc.StatusCode.UNIMPLEMENTED, path
            compressed = unary(channel, "echo", bytes(1000), compression=grpc.Compression.Gzip)
            assert (await status(compressed))[0] is grpc.StatusCode.UNIMPLEMENTED

    run(body)


def test_a_message_beyond_the_limit_is_refused() -> None:
    async def body() -> None:
        async with served(max_message_mib=1) as (channel, _, _wire):
            assert len(await unary(channel, "echo", bytes(MIB))) == MIB
            code, _ = await status(unary(channel, "echo", bytes(MIB + 1)))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await unary(channel, "echo", b"on") == b"on"

    run(body)


def test_a_call_without_a_message_reads_none() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for message in list[bytes]():
            yield message

    async def body() -> None:
        async with served() as (channel, _, _wire):
            method: Any = channel.stream_unary(SERVICE + "nothing")
            assert await method(nothing(), timeout=10) == b""

    run(body)


@pytest.mark.parametrize("ending", ["cancelled", "late", "gone"])
def test_a_method_is_cancelled_with_its_caller(ending: str) -> None:
    async def body() -> None:
        async with served() as (channel, methods, _wire):
            call = unary(channel, "wait", timeout=0.3 if ending == "late" else 10)
            task = asyncio.ensure_future(call)
            await methods.begun.wait()
            if ending == "cancelled":
                call.cancel()
            elif ending == "gone":
                await channel.close()
            await methods.cancelled.wait()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await task

    run(body)


def test_methods_know_their_caller() -> None:
    async def body() -> None:
        async with served() as (channel, methods, _wire):
            sent = (("x-many", "one"), ("x-other", "1"), ("x-many", "two"))
            before = time.monotonic()
            await unary(channel, "about", metadata=sent, timeout=5)
            peer, many, none, deadline = methods.seen
            assert isinstance(peer, Peer)
            assert peer.address == "127.0.0.1"
            assert 0 < peer.port < 65536
            assert ",".join(many).replace(", ", ",") == "one,two"
            assert list(none) == []
            # As far as milliseconds on the wire, and two clocks, tell it.
            assert before + 4 < deadline < time.monotonic() + 5.1
            await unary(channel, "about", timeout=None)
            assert methods.seen[3] == math.inf

    run(body)


def test_a_caller_on_the_socket_has_no_address(tmp_path: Path) -> None:
    async def body() -> None:
        async with served(tmp_path / "s.sock") as (channel, methods, _wire):
            await unary(channel, "about")
            assert methods.seen[0] is None

    run(body)


def test_calls_under_way_may_finish_when_the_wire_stops() -> None:
    async def body() -> None:
        async with served() as (channel, methods, wire):
            call = asyncio.ensure_future(unary(channel, "wait"))
            await methods.begun.wait()
            stopping = asyncio.create_task(wire.stop(10))
            await asyncio.sleep(0)
            methods.release.set()
            assert await call == b"done"
            await stopping

    run(body)


def test_calls_that_take_too_long_are_cancelled_when_the_wire_stops() -> None:
    async def body() -> None:
        async with served() as (channel, methods, wire):
            call = asyncio.ensure_future(unary(channel, "wait"))
            await methods.begun.wait()
            await wire.stop(0.1)
            code, _ = await status(call)
            assert code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
            assert methods.cancelled.is_set()

    run(body)


def test_a_port_that_is_taken_is_named() -> None:
    async def body() -> None:
        first, second = made(), made()
        port = first.bind("127.0.0.1", 0)
        with pytest.raises(StartError, match=rf"--grpc-port: .*127\.0\.0\.1:{port}"):
            second.bind("127.0.0.1", port)
        for wire in (first, second):
            await wire.stop(0)

    run(body)


def test_a_wire_that_cannot_run_here_is_refused_with_the_reason() -> None:
    if native_missing() is None:
        pytest.skip("the native wire runs here")

    async def body() -> None:
        with pytest.raises(StartError, match=f"--wire native: {native_missing()}"):
            made(wire="native")
        wire = made(wire="auto")
        assert wire.name == "grpcio"
        await wire.stop(0)

    run(body)
