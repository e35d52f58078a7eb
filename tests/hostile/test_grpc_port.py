"""Messages that gRPC is receiving, and answers that nobody reads, are bounded like all memory."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.gen import grpc_service_pb2 as pb
from protos.gen import vision_pb2 as vision
from tests.support import http2
from tests.support.beside import Honest
from tests.support.http2 import Connection, call_head, close, drive, frame
from tests.support.identity import publish_identity
from tests.support.limited import LimitedServer
from tests.support.published import publish

MIB = 1 << 20
# Of the server's memory, in MiB; its calls may hold 60 % of it.
LIMIT = 1024
OIP = "/inference.GRPCInferenceService/"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# The server's limits for messages that do not come and answers that are not read.
SECONDS = 2
# The deadline of honest callers in seconds: attacker and server share the cores of the machine.
PATIENCE = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[LimitedServer]:
    repository = tmp_path_factory.mktemp("repository")
    publish(repository, "colours", "classification")
    publish_identity(repository, "identity", ["UINT8"])
    flags = ["--allow-ungated", "--engine", "onnxruntime"]
    flags += ["--max-connections", "300", "--max-connections-per-address", "100"]
    flags += ["--grpc-receive-seconds", str(SECONDS), "--grpc-send-seconds", str(SECONDS)]
    started = LimitedServer(repository, *flags, cache=cache, mib=LIMIT)
    try:
        yield started
    finally:
        started.kill()


def request(size: int) -> bytes:
    """A call of `identity`, whose answer is as large."""
    message = pb.ModelInferRequest(model_name="identity")
    message.inputs.add(name="in_UINT8", datatype="UINT8", shape=[size])
    message.raw_input_contents.append(bytes(size))
    return message.SerializeToString()


def connect(server: LimitedServer, count: int, source: str = "127.0.0.9") -> list[Connection]:
    port = int(server.url.rpartition(":")[2])
    return [Connection(("127.0.0.1", port), source) for _ in range(count)]


def check(server: LimitedServer, honest: Honest) -> None:
    """The server has stayed within its limit and answered the others."""
    tally = honest.tally
    assert server.alive
    assert server.kills == 0
    assert server.healthy()
    assert (tally.wrong, tally.late, tally.lost) == (0, 0, 0), tally
    assert tally.answered > tally.sent / 2, tally


@pytest.mark.parametrize(
    "path",
    [
        OIP + "ModelInfer",
        OIP + "ModelStreamInfer",
        OIP + "ServerLive",
        "/grpc.health.v1.Health/Watch",
        REFLECTION,
    ],
)
def test_messages_that_stop_before_their_end_do_not_fill_the_memory(
    server: LimitedServer, path: str
) -> None:
    message, senders = bytes(32 * MIB - 100), connect(server, 40)
    for sender in senders:
        sender.call(1, path, message, cut=MIB // 10)
    try:
        with Honest(server.url, deadline=PATIENCE) as honest:
            drive(senders, lambda: all(sender.sent for sender in senders))
            # More than fits was sent, so that some were cut, as HTTP/2 lets a server.
            assert any(sender.ended for sender in senders)
        check(server, honest)
        # A wire that makes senders wait for memory may find them too slow first.
        assert cut(server, "memory") + cut(server, "receive") > 0
    finally:
        close(senders)


def cut(server: LimitedServer, reason: str) -> float:
    return server.metric(f'convserve_cut_total{{reason="{reason}"}}')


def test_whole_messages_that_are_too_many_are_answered_or_refused(server: LimitedServer) -> None:
    image = vision.Image(encoded=bytes(31 * MIB))
    message = vision.ClassifyRequest(model="colours", images=[image]).SerializeToString()
    senders = connect(server, 60)
    for sender in senders:
        sender.call(1, "/convserve.vision.v1.VisionService/Classify", message)
    try:
        with Honest(server.url, deadline=PATIENCE) as honest:
            drive(senders, lambda: all(sender.ended or sender.closed for sender in senders))
        check(server, honest)
    finally:
        close(senders)


def test_message_that_does_not_come_ends_its_call(server: LimitedServer) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def call() -> grpc.aio.AioRpcError:
        async with grpc.aio.insecure_channel(server.url) as channel:
            method: Any = channel.stream_unary(OIP + "ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(nothing(), timeout=20)
            return caught.value

    error = asyncio.run(call())
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == f"its message did not come within {SECONDS} s"


def test_call_without_a_message_is_bad_input(server: LimitedServer) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for message in list[bytes]():
            yield message

    async def call() -> grpc.aio.AioRpcError:
        async with grpc.aio.insecure_channel(server.url) as channel:
            method: Any = channel.stream_unary(OIP + "ServerMetadata")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(nothing(), timeout=20)
            return caught.value

    error = asyncio.run(call())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "expected a message, got none"


def test_connections_of_an_address_and_in_all_are_bounded(server: LimitedServer) -> None:
    greedy = connect(server, 130)
    try:
        with Honest(server.url, deadline=PATIENCE) as honest:
            drive(greedy, lambda: sum(one.closed for one in greedy) == 30)
            assert cut(server, "connections") == 30
            greedy += connect(server, 90, "127.0.0.10") + connect(server, 90, "127.0.0.11")
            greedy += connect(server, 90, "127.0.0.12")
            drive(greedy, lambda: sum(one.closed for one in greedy) >= 30 + 70)
        check(server, honest)
    finally:
        close(greedy)


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_answers_that_nobody_reads_are_held_and_then_cut(
    server: LimitedServer, method: str
) -> None:
    before = cut(server, "send")
    [reader] = connect(server, 1)
    for stream in range(1, 17, 2):
        reader.call(stream, OIP + method, request(4 * MIB))
    held = 'convserve_memory_held_bytes{use="answer"}'
    try:
        drive([reader], lambda: reader.sent)
        drive([reader], lambda: server.metric(held) > 8 * 4 * MIB)
        # A wire that knows its streams ends these alone.
        drive([reader], lambda: reader.closed or len(reader.ended) == 8)
    finally:
        close([reader])
    drive([], lambda: server.metric(held) == 0)
    assert cut(server, "send") > before


def resets() -> Iterator[bytes]:
    code = struct.pack(">I", 8)
    for stream in range(1, 40_001, 2):
        head = frame(http2.HEADERS, http2.END_HEADERS, stream, call_head(OIP + "ServerLive"))
        yield head + frame(http2.RST_STREAM, 0, stream, code)


def resets_of_calls_with_a_message() -> Iterator[bytes]:
    code, message = struct.pack(">I", 8), frame(http2.DATA, 0, 1, b"\0\0\0\0\x40" + bytes(64))
    for stream in range(1, 40_001, 2):
        head = frame(http2.HEADERS, http2.END_HEADERS, stream, call_head(OIP + "ServerLive"))
        data = message[:5] + struct.pack(">I", stream) + message[9:]
        yield head + data + frame(http2.RST_STREAM, 0, stream, code)


def pings() -> Iterator[bytes]:
    return (frame(http2.PING, 0, 0, struct.pack(">Q", number)) for number in range(100_000))


def settings() -> Iterator[bytes]:
    for number in range(50_000):
        yield frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535 + number % 2))


def continuations() -> Iterator[bytes]:
    yield frame(http2.HEADERS, 0, 1, call_head(OIP + "ServerLive"))
    for _ in range(50_000):
        yield frame(http2.CONTINUATION, 0, 1, b"\0\x03x-a\x40" + b"b" * 64)


def streams_that_wait() -> Iterator[bytes]:
    for stream in range(1, 4_001, 2):
        path = OIP + "ModelStreamInfer"
        yield frame(http2.HEADERS, http2.END_HEADERS, stream, call_head(path))


@pytest.mark.parametrize(
    "frames",
    [resets, resets_of_calls_with_a_message, pings, settings, continuations, streams_that_wait],
)
def test_floods_of_frames_harm_nobody_else(server: LimitedServer, frames: Any) -> None:
    flood, [sender] = b"".join(frames()), connect(server, 1)
    try:
        with Honest(server.url, deadline=PATIENCE) as honest:
            sender.push(flood)
            drive([sender], lambda: sender.sent)
        check(server, honest)
    finally:
        close([sender])
