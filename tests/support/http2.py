"""Frames of HTTP/2 (RFC 9113) by hand, for senders that no gRPC client would be."""

import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_HEADERS, ACK = 4, 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_INITIAL_WINDOW = 65_535
_LARGEST_FRAME = 16 << 10


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def call_head(path: str) -> bytes:
    """The headers of a gRPC call in HPACK (RFC 7541), as literals that no table keeps."""
    pairs = (
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"),
        ("content-type", "application/grpc"), ("te", "trailers"),
    )  # fmt: skip
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in pairs
    )


class Connection:
    """One connection, which keeps to the windows that the server gives.

    window: of what the server may send on each stream; 0 reads no answer.
    ended: streams that the server has ended, with their frames' kinds.
    closed: by the server.
    """

    def __init__(
        self, address: tuple[str, int], source: str = "127.0.0.1", window: int = 0
    ) -> None:
        self.socket = socket.create_connection(address, 10, source_address=(source, 0))
        self.socket.setblocking(False)
        self.closed = False
        self.ended: set[int] = set()
        self.received: Counter[int] = Counter()
        self._out = bytearray(_PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window)))
        self._in = b""
        self._initial = self._room = _INITIAL_WINDOW
        self._rooms: dict[int, int] = {}
        # Bytes of its message that each stream has still to send.
        self._left: dict[int, memoryview] = {}

    def call(self, stream: int, path: str, message: bytes, cut: int = 0) -> None:
        """Begins a call, and sends its message but for the last `cut` bytes."""
        head = struct.pack(">BI", 0, len(message))
        self._out += frame(HEADERS, END_HEADERS, stream, call_head(path))
        self._out += frame(DATA, 0, stream, head)
        self._left[stream] = memoryview(message)[: len(message) - cut]
        self._rooms[stream] = self._initial - len(head)
        self._room -= len(head)

    def push(self, frames: bytes) -> None:
        """Sends frames as they are."""
        self._out += frames

    @property
    def sent(self) -> bool:
        """Whether all has been sent that was to be, and that the server still wants."""
        return self.closed or not (self._out or self._left)

    def turn(self) -> None:
        """Sends and receives as much as goes without waiting."""
        try:
            self._fill()
            while self._out and (count := self.socket.send(self._out)):
                del self._out[:count]
                self._fill()
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        try:
            while part := self.socket.recv(1 << 16):
                self._in += part
                self._take()
            self.closed = True
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def _fill(self) -> None:
        """Puts parts of messages that the windows allow into the frames that go out."""
        for stream, left in list(self._left.items()):
            while len(self._out) < (1 << 18):
                size = min(len(left), _LARGEST_FRAME, self._room, self._rooms[stream])
                if size <= 0:
                    break
                self._out += frame(DATA, 0, stream, left[:size])
                left = left[size:]
                self._room -= size
                self._rooms[stream] -= size
            if left:
                self._left[stream] = left
            else:
                del self._left[stream]

    def _take(self) -> None:
        while len(self._in) >= 9:
            size = int.from_bytes(self._in[:3], "big")
            if len(self._in) < 9 + size:
                return
            kind, flags, stream = struct.unpack(">BBI", self._in[3:9])
            payload, self._in = self._in[9 : 9 + size], self._in[9 + size :]
            self.received[kind] += 1
            self._note(kind, flags, stream, payload)

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 4:
                    for open_stream in self._rooms:
                        self._rooms[open_stream] += value - self._initial
                    self._initial = value
            self._out += frame(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, payload)
        elif kind == WINDOW:
            size = int.from_bytes(payload, "big")
            if stream == 0:
                self._room += size
            elif stream in self._rooms:
                self._rooms[stream] += size
        elif kind == RST_STREAM or (kind == HEADERS and flags & 1):
            self.ended.add(stream)
            self._left.pop(stream, None)


def drive(
    connections: Sequence[Connection], until: Callable[[], bool], seconds: float = 20.0
) -> None:
    """Lets connections send and receive until a condition holds."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not come to that"
        for connection in connections:
            if not connection.closed:
                connection.turn()
        time.sleep(0.001)  # among many sockets one is mostly ready


def close(connections: Sequence[Connection]) -> None:
    """Closes all."""
    for connection in connections:
        connection.socket.close()
