"""gRPC's own cases of interoperability, over every wire, with grpcio's client.

The cases are those of "gRPC Interoperability Test Case Descriptions", for methods that know no
message but bytes.
"""

import json
import os
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from tests.support.wired import MIB, PATIENCE, SERVICE, Wired, channel_to

# Sizes of the messages of gRPC's streaming cases, in bytes.
ASKED = [27182, 8, 1828, 45904]
ANSWERED = [31415, 9, 2653, 58979]


@pytest.fixture
def channel(server: Wired) -> Iterator[grpc.Channel]:
    with channel_to(server.url) as opened:
        yield opened


def unary(channel: grpc.Channel, name: str, message: bytes, **options: Any) -> bytes:
    method: Any = channel.unary_unary(SERVICE + name)
    answer: bytes = method(message, timeout=PATIENCE, **options)
    return answer


def conversation(channel: grpc.Channel, name: str = "converse") -> Any:
    return channel.stream_stream(SERVICE + name)


def status(call: Any, *arguments: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    error: Any = caught.value
    return error.code(), error.details()


def test_empty_unary(channel: grpc.Channel) -> None:
    assert unary(channel, "empty", b"") == b""


def test_large_unary(channel: grpc.Channel) -> None:
    for size in (271_828, 31 * MIB):
        message = os.urandom(1000) * (size // 1000)
        assert unary(channel, "echo", message) == message


def test_client_streaming(channel: grpc.Channel) -> None:
    method: Any = channel.stream_unary(SERVICE + "total")
    assert method((bytes(size) for size in ASKED), timeout=PATIENCE) == b"74922"


def test_server_streaming(channel: grpc.Channel) -> None:
    method: Any = channel.unary_stream(SERVICE + "count")
    answers = method(json.dumps(ANSWERED).encode(), timeout=PATIENCE)
    assert [len(answer) for answer in answers] == ANSWERED


def test_ping_pong(channel: grpc.Channel) -> None:
    asked = SimpleQueue[bytes | None]()
    stream = conversation(channel)(iter(asked.get, None), timeout=PATIENCE)
    for size in ASKED:
        message = os.urandom(size)
        asked.put(message)
        assert next(stream) == message
    asked.put(None)
    assert [*stream] == []


def test_empty_stream(channel: grpc.Channel) -> None:
    assert [*conversation(channel)(iter(()), timeout=PATIENCE)] == []


def test_cancel_after_begin(server: Wired, channel: grpc.Channel) -> None:
    server.cancelled.clear()
    server.begun.clear()
    method: Any = channel.stream_unary(SERVICE + "sleep")
    call = method.future(iter(()), timeout=PATIENCE)
    server.wait(lambda: "sleep" in server.begun)
    call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    server.wait(lambda: "sleep" in server.cancelled)


def test_cancel_after_first_response(server: Wired, channel: grpc.Channel) -> None:
    server.ended.clear()
    asked = SimpleQueue[bytes | None]()
    asked.put(bytes(ASKED[0]))
    stream = conversation(channel)(iter(asked.get, None), timeout=PATIENCE)
    assert len(next(stream)) == ASKED[0]
    stream.cancel()
    asked.put(None)
    assert stream.code() is grpc.StatusCode.CANCELLED
    # Of a method that reads, grpcio may tell the end of the messages first, and it is over then.
    server.wait(lambda: "converse" in server.ended)


def test_timeout_on_sleeping_server(server: Wired, channel: grpc.Channel) -> None:
    server.cancelled.clear()
    method: Any = channel.unary_unary(SERVICE + "sleep")
    assert status(method, b"x", timeout=0.05)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    server.wait(lambda: "sleep" in server.cancelled)


@pytest.mark.parametrize(
    "text",
    [
        "test status message",
        "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n",
        "",
        "100 % of %41",
    ],
)
def test_status_code_and_message(channel: grpc.Channel, text: str) -> None:
    for code in grpc.StatusCode:
        if code is grpc.StatusCode.OK:
            continue
        asked = json.dumps([code.name, text, ""]).encode()
        method: Any = channel.unary_unary(SERVICE + "fail")
        assert status(method, asked, timeout=PATIENCE) == (code, text)


def test_status_details_are_bytes(channel: grpc.Channel) -> None:
    details = "".join(map(chr, range(256)))
    method: Any = channel.unary_unary(SERVICE + "fail")
    with pytest.raises(grpc.RpcError) as caught:
        method(json.dumps(["ABORTED", "x", details]).encode(), timeout=PATIENCE)
    trailers: Any = caught.value
    found = dict(trailers.trailing_metadata())["grpc-status-details-bin"]
    assert found == bytes(range(256))


@pytest.mark.parametrize("path", [SERVICE + "missing", "/tests.Missing/echo"])
def test_unimplemented_method_and_service(channel: grpc.Channel, path: str) -> None:
    method: Any = channel.unary_unary(path)
    assert status(method, b"x", timeout=PATIENCE)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_custom_metadata(channel: grpc.Channel) -> None:
    sent = (("x-many", "a"), ("x-many", "b,c"), ("x-other", "d"))
    answer = json.loads(unary(channel, "headers", b"x-many", metadata=sent))
    assert ",".join(answer).replace(", ", ",") == "a,b,c"
    assert json.loads(unary(channel, "headers", b"x-none", metadata=sent)) == []


def test_metadata_of_bytes(channel: grpc.Channel) -> None:
    """Each byte is a character."""
    values = [bytes(range(256)), b"", b"a,b"]
    sent = [("x-many-bin", value) for value in values] + [("x-many", "a")]
    answer = json.loads(unary(channel, "headers", b"x-many-bin", metadata=sent))
    assert [value.encode("latin-1") for value in answer] == values
    assert json.loads(unary(channel, "headers", b"x-none-bin", metadata=sent)) == []


@pytest.mark.parametrize("name", ["echo", "converse"])
def test_compressed_messages_are_unimplemented(channel: grpc.Channel, name: str) -> None:
    method: Any = channel.unary_unary(SERVICE + name)
    code, _ = status(method, bytes(1000), timeout=PATIENCE, compression=grpc.Compression.Gzip)
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert unary(channel, "echo", b"on") == b"on"


def test_many_calls_of_one_connection(channel: grpc.Channel) -> None:
    method: Any = channel.unary_unary(SERVICE + "echo")
    messages = [os.urandom(1 + 997 * number) for number in range(200)]
    calls = [method.future(message, timeout=PATIENCE) for message in messages]
    assert [call.result() for call in calls] == messages
