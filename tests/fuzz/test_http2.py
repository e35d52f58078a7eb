"""Whatever frames come over a connection of the native wire, calls of others are answered, nothing
goes to the log, and no memory stays held."""

import logging
import struct
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.server.wire.native.listener import NativeWire
from tests.support.http2 import (
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    call_head,
    frame,
)
from tests.support.raw_http2 import RawClient, message
from tests.support.wired import MIB, SERVICE, Wired, wired

END_STREAM, PADDED = 1, 8
NAMES = ("echo", "converse", "total", "sleep", "deaf", "flood", "count", "missing")


@pytest.fixture(scope="module")
def server() -> Iterator[Wired]:
    logger = logging.getLogger("serving")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with wired(NativeWire, memory=16 * MIB) as running:
        yield running
    logger.setLevel(level)


@pytest.fixture(scope="module")
def honest(server: Wired) -> Iterator[RawClient]:
    with RawClient(server.port, source="127.0.0.9") as client:
        yield client


streams = st.integers(0, 4).map(lambda number: 2 * number + 1)
numbers = st.one_of(st.integers(0, 10), st.integers(0, (1 << 31) - 1))
# The bytes of messages, whole, in part, too large, compressed, and none at all.
contents = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=300).map(message),
    st.integers(0, 16_000).map(lambda size: message(bytes(size))[:16_000]),
    st.integers(0, (1 << 32) - 1).map(lambda size: b"\0" + struct.pack(">I", size)),
    st.binary(max_size=20).map(lambda data: message(data, flag=1)),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Calls that begin as they should, and frames in any order."""
    found = b""
    opened = 1
    for _ in range(draw(st.integers(1, 30))):
        kind = draw(st.sampled_from("hhdddddrwwspgx"))
        stream = draw(streams)
        if kind == "h":
            flags = END_HEADERS | draw(st.sampled_from([0, 0, END_STREAM]))
            found += frame(
                HEADERS, flags, opened, call_head(SERVICE + draw(st.sampled_from(NAMES)))
            )
            opened += 2
        elif kind == "d":
            flags = draw(st.sampled_from([0, 0, 0, END_STREAM, PADDED]))
            found += frame(DATA, flags, stream, draw(contents))
        elif kind == "r":
            found += frame(RST_STREAM, 0, stream, struct.pack(">I", draw(st.integers(0, 14))))
        elif kind == "w":
            where = draw(st.sampled_from([0, stream]))
            found += frame(WINDOW, 0, where, struct.pack(">I", draw(numbers)))
        elif kind == "s":
            pair = struct.pack(">HI", draw(st.integers(1, 9)), draw(numbers))
            found += frame(SETTINGS, 0, 0, pair)
        elif kind == "p":
            found += frame(PING, draw(st.sampled_from([0, 1])), 0, bytes(8))
        elif kind == "g":
            found += frame(GOAWAY, 0, 0, bytes(8))
        else:
            noise = draw(st.binary(max_size=40))
            found += frame(draw(st.integers(0, 12)), draw(st.integers(0, 255)), stream, noise)
    return found


def opened_call(name: str, data: bytes, flags: int = 0) -> bytes:
    return frame(HEADERS, END_HEADERS, 1, call_head(SERVICE + name)) + frame(DATA, flags, 1, data)


@settings(settings.get_profile("fuzz"))
@given(frames(), st.lists(st.integers(0, 2000), max_size=5))
@example(opened_call("echo", message(b"abc"), END_STREAM) + frame(DATA, 0, 1, b"more"), [])
@example(opened_call("converse", message(b"abc")) + frame(RST_STREAM, 0, 1, bytes(4)), [9])
@example(opened_call("flood", message(b"")) + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)), [])
@example(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)) + opened_call("flood", message(b"")), [])
@example(opened_call("echo", b"\0\xff\xff\xff\xff") + frame(DATA, 0, 1, bytes(16_000)) * 20, [])
@example(opened_call("deaf", message(b"a") * 2000) + frame(WINDOW, 0, 1, bytes(4)), [])
@example(  # the connection ends while a method writes
    opened_call("flood", message(b"")) + frame(SETTINGS, 0, 0, struct.pack(">HI", 5, 0)), []
)
def test_frames_in_any_order_harm_nobody_else(
    server: Wired, honest: RawClient, data: bytes, cuts: list[int]
) -> None:
    errors: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = errors.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        with RawClient(server.port) as client:
            begin = 0
            for end in [*sorted(cuts), len(data)]:
                client.push(data[begin:end])
                begin = max(begin, end)
            stream = honest.call(message(data[:1000]))
            assert honest.status(stream) == (0, "")
            assert honest.data[stream] == message(data[:1000])
        server.wait(lambda: server.budget.used == 0)
    finally:
        logging.getLogger().removeHandler(handler)
    assert errors == []
