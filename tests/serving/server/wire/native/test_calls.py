"""Calls of the native wire, as they look on the line."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from serving.server.wire.native.listener import NativeWire
from tests.support.http2 import END_HEADERS, HEADERS, RST_STREAM, call_head, frame
from tests.support.raw_http2 import HEAD, RawClient, message
from tests.support.wired import MIB, SERVICE, Wired, channel_to, wired

OK = grpc.StatusCode.OK.value[0]
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.value[0]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


@pytest.fixture(scope="module")
def server() -> Iterator[Wired]:
    with wired(NativeWire) as running:
        yield running


@pytest.fixture
def client(server: Wired) -> Iterator[RawClient]:
    with RawClient(server.port) as connected:
        yield connected


def changed(**fields: bytes) -> tuple[tuple[bytes, bytes], ...]:
    head = dict(HEAD) | {name.replace("_", "-").encode(): v for name, v in fields.items()}
    return tuple((name, value) for name, value in head.items() if value)


def test_a_call_without_te_is_answered(client: RawClient) -> None:
    stream = client.call(message(b"abc"))
    assert client.status(stream) == (OK, "")
    assert client.data[stream] == message(b"abc")
    assert client.headers[stream][b":status"] == b"200"
    assert client.headers[stream][b"content-type"] == b"application/grpc"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (changed(content_type=b"application/json"), b"415"),
        (changed(content_type=b"application/grpcx"), b"415"),
        (changed(content_type=b""), b"415"),
        (tuple((k, b"GET" if k == b":method" else v) for k, v in HEAD), b"405"),
    ],
)
def test_a_request_that_is_no_call_has_the_status_of_http(
    client: RawClient, head: Any, status: bytes
) -> None:
    for end in (True, False):
        stream = client.call(message(b"abc"), head=head, end=end)
        client.status(stream)
        assert client.headers[stream][b":status"] == status
        assert b"grpc-status" not in client.headers[stream]
    assert client.status(client.call(message(b"abc"))) == (OK, "")


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc; charset=utf-8"])
def test_more_may_stand_behind_the_type(client: RawClient, kind: bytes) -> None:
    stream = client.call(message(b"abc"), head=changed(content_type=kind))
    assert client.status(stream) == (OK, "")


@pytest.mark.parametrize(
    "value", [b"99999999H", b"1H", b"60M", b"10S", b"60000m", b"99999999u", b"99999999n"]
)
def test_time_is_in_every_unit(client: RawClient, value: bytes) -> None:
    stream = client.call(message(b"abc"), (b"grpc-timeout", value))
    if value != b"99999999n":  # 0.1 s
        assert client.status(stream) == (OK, "")


@pytest.mark.parametrize("value", [b"0S", b"1n", b"20m"])
def test_the_deadline_ends_a_call_by_itself(server: Wired, client: RawClient, value: bytes) -> None:
    stream = client.call(message(b"abc"), (b"grpc-timeout", value), path="sleep", end=False)
    assert client.status(stream)[0] == DEADLINE
    # What the caller would still send is not wanted.
    client.until(lambda: stream in client.resets)
    assert client.resets[stream] == 0
    assert server.begun.count("sleep") >= server.cancelled.count("sleep")


@pytest.mark.parametrize(
    "value", [b"", b"1", b"S", b"-1S", b"1.5S", b"1 S", b"123456789S", b"1X", b"\xff\xffS", b"1SS"]
)
def test_a_time_that_is_none_is_named(client: RawClient, value: bytes) -> None:
    stream = client.call(message(b"abc"), (b"grpc-timeout", value))
    code, text = client.status(stream)
    assert code == INVALID
    assert text.startswith("grpc-timeout: expected")
    assert len(text) < 400


def test_one_of_many_deadlines_ends_its_call_alone(client: RawClient) -> None:
    late = client.call(message(b"a"), (b"grpc-timeout", b"40m"), path="sleep")
    later = client.call(message(b"a"), (b"grpc-timeout", b"80m"), path="sleep")
    never = client.call(message(b"a"), path="sleep")
    assert client.status(late)[0] == client.status(later)[0] == DEADLINE
    assert never not in client.ended


def test_the_end_of_a_call_may_be_trailers(client: RawClient) -> None:
    stream = client.call(message(b"abc"), path="converse", end=False)
    client.until(lambda: client.data[stream])
    client.trailers(stream)
    assert client.status(stream) == (OK, "")


def test_a_call_is_half_closed(client: RawClient) -> None:
    stream = client.call(message(b"12"), path="total", end=False)
    client.send(stream, message(b"345"), end=True)
    assert client.status(stream) == (OK, "")
    assert client.data[stream] == message(b"5")


def test_a_stream_that_ends_within_a_message_is_named(client: RawClient) -> None:
    stream = client.call(message(b"abcdef")[:-2])
    code, text = client.status(stream)
    assert code == INVALID
    assert "lacks 2 bytes" in text


@pytest.mark.parametrize(
    ("data", "more", "code", "said"),
    [
        (message(b"abc", flag=1), (), UNIMPLEMENTED, "compressed"),
        (message(b"abc"), ((b"grpc-encoding", b"gzip"),), UNIMPLEMENTED, "gzip"),
        (message(b"abc"), ((b"grpc-encoding", b"identity"),), OK, ""),
        (b"\0\xff\xff\xff\xff", (), EXHAUSTED, str(32 * MIB)),
        (b"\x07\0\0\0\x01a", (), 13, "7"),
    ],
)
def test_messages_that_are_not_taken_end_their_call(
    client: RawClient, data: bytes, more: Any, code: int, said: str
) -> None:
    stream = client.call(data, *more, end=False)
    if code == OK:
        client.send(stream, b"", end=True)
    status, text = client.status(stream)
    assert status == code
    assert said in text
    if code == UNIMPLEMENTED:
        assert client.headers[stream][b"grpc-accept-encoding"] == b"identity"
    assert client.status(client.call(message(b"on"))) == (OK, "")


def test_headers_that_are_too_large_end_their_call_alone(client: RawClient) -> None:
    stream = client.call(message(b"abc"), (b"x-large", b"x" * 17_000))
    code, text = client.status(stream)
    assert code == EXHAUSTED
    assert "headers" in text
    assert client.status(client.call(message(b"on"))) == (OK, "")


def test_values_of_bytes_are_decoded(client: RawClient) -> None:
    value = bytes(range(256))
    coded = base64.b64encode(value)
    more = [(b"x-a-bin", coded), (b"x-a-bin", coded.rstrip(b"=") + b",!," + coded)]
    stream = client.call(message(b"x-a-bin"), *more, path="headers")
    assert client.status(stream) == (OK, "")
    assert json.loads(client.data[stream][5:]) == [value.decode("latin-1")] * 3


def test_a_long_status_is_cut(server: Wired) -> None:
    with channel_to(server.url) as channel:
        method: Any = channel.unary_unary(SERVICE + "fail")
        with pytest.raises(grpc.RpcError) as caught:
            method(json.dumps(["ABORTED", "\N{SNOWMAN}" * 10_000, ""]).encode(), timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.ABORTED
    assert error.details().endswith("...")


def test_a_reset_and_a_lost_connection_cancel_their_calls() -> None:
    with wired(NativeWire) as server:
        with RawClient(server.port) as client:
            first = client.call(message(b"a"), path="sleep")
            client.call(bytes(3), path="converse", end=False)
            server.wait(lambda: server.begun == ["sleep", "converse"])
            client.reset(first)
            server.wait(lambda: server.cancelled == ["sleep"])
        server.wait(lambda: server.cancelled == ["sleep", "converse"])
        server.wait(lambda: server.budget.used == 0)


def test_a_writer_waits_for_his_reader(server: Wired) -> None:
    with RawClient(server.port, window=0) as client:
        stream = client.call(message(b"a"), path="flood")
        server.wait(lambda: server.budget.held("answer") > 0)
        # Two messages: one beyond the bound of a stream, and no more.
        assert server.budget.held("answer") <= 200_000
        client.reset(stream)
        server.wait(lambda: server.budget.used == 0)


def test_a_connection_bounds_what_its_streams_queue(server: Wired) -> None:
    server.begun.clear()
    with RawClient(server.port, window=0) as client:
        for _ in range(80):
            client.call(message(b"a"), path="flood")
        server.wait(lambda: server.budget.held("answer") > 4 * MIB)
        # Each has queued one message at least, which it does not know before.
        assert server.budget.held("answer") <= 4 * MIB + 80 * 100_000
    server.wait(lambda: server.budget.used == 0)


def test_calls_that_are_reset_as_they_begin_cost_no_task(server: Wired) -> None:
    server.begun.clear()
    head, reset = call_head(SERVICE + "sleep"), (8).to_bytes(4, "big")
    with RawClient(server.port) as client:
        client.push(
            b"".join(
                frame(HEADERS, END_HEADERS, stream, head) + frame(RST_STREAM, 0, stream, reset)
                for stream in range(1, 2001, 2)
            )
        )
    server.wait(lambda: server.budget.used == 0)
    assert len(server.begun) < 100
