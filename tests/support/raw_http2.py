"""A client of HTTP/2 that sends any headers and any frames, and shows the answers as they are."""

import socket
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Self

import ngh2

from tests.support.http2 import frame

HEAD = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/tests.Interop/echo"),
    (b":authority", b"a"),
    (b"content-type", b"application/grpc"),
)
PATIENCE = 20.0


def message(data: bytes, flag: int = 0) -> bytes:
    """A message with its prefix."""
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


def whole_call(path: str, data: bytes) -> bytes:
    """All that a client sends on a connection of which it waits for nothing: one call."""
    h2 = ngh2.Connection(ngh2.Role.CLIENT)
    h2.initiate_connection({})
    stream = h2.send_request((*(dict(HEAD) | {b":path": path.encode()}).items(),))
    h2.send_data(stream, message(data), end_stream=True)
    return h2.data_to_send()


class RawClient:
    """One connection.

    headers: of answers, then their trailers, by stream.
    data: of answers, by stream.
    resets: error codes, by stream.
    goaways: last streams that the server named.
    closed: by the server.
    """

    def __init__(
        self,
        port: int,
        *,
        source: str = "127.0.0.1",
        window: int = 65_535,
        acknowledges: bool = True,
    ) -> None:
        self.socket = socket.create_connection(
            ("127.0.0.1", port), PATIENCE, source_address=(source, 0)
        )
        self.socket.settimeout(0.01)
        self.closed = False
        self.headers: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
        self.data: defaultdict[int, bytes] = defaultdict(bytes)
        self.resets: dict[int, int] = {}
        self.ended: set[int] = set()
        self.goaways: list[int] = []
        self._acknowledges = acknowledges
        self._over = False
        self._h2 = ngh2.Connection(ngh2.Role.CLIENT)
        self._h2.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: window})
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def may_open(self) -> int:
        """Streams at a time that the server has allowed."""
        return self._h2.remote_settings[3]

    def flush(self) -> None:
        """Sends what is queued."""
        if not self._over and (data := self._h2.data_to_send()):
            self.push(data)
        for event in self._h2.events():
            self._note(event)

    def push(self, frames: bytes) -> None:
        """Sends frames as they are."""
        try:
            self.socket.settimeout(PATIENCE)
            self.socket.sendall(frames)
        except OSError:
            self.closed = True
        finally:
            self.socket.settimeout(0.01)

    def call(
        self,
        data: bytes = b"",
        *more: tuple[bytes, bytes],
        path: str = "echo",
        head: tuple[tuple[bytes, bytes], ...] = HEAD,
        end: bool = True,
    ) -> int:
        """Begins a call and returns its stream."""
        changed = dict(head)
        changed[b":path"] = b"/tests.Interop/" + path.encode()
        stream = self._h2.send_request((*changed.items(), *more))
        if data:
            self._h2.send_data(stream, data)
        if end:
            self._h2.end_stream(stream)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Sends more of a call."""
        self._h2.send_data(stream, data, end_stream=end)
        self.flush()

    def trailers(self, stream: int) -> None:
        """Ends a call by trailers."""
        self._h2.send_trailers(stream, ((b"x-end", b"1"),))
        self.flush()

    def reset(self, stream: int) -> None:
        """Resets a call."""
        self.push(frame(3, 0, stream, (8).to_bytes(4, "big")))

    def until(self, condition: Callable[[], object]) -> None:
        """Reads until a condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            self.read()

    def read(self) -> None:
        """Takes what has come."""
        if self.closed:
            time.sleep(0.005)  # the server is another thread, which does not tell
            return
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        if self._over:
            return
        self._h2.receive_data(data)
        if self._acknowledges:
            self.flush()
        for event in self._h2.events():
            self._note(event)

    def _note(self, event: ngh2.Event) -> None:
        if isinstance(event, ngh2.ResponseReceived | ngh2.TrailersReceived):
            self.headers[event.stream_id].update(event.headers)
            if isinstance(event, ngh2.TrailersReceived) or event.end_stream:
                self.ended.add(event.stream_id)
        elif isinstance(event, ngh2.DataReceived):
            self.data[event.stream_id] += event.data
        elif isinstance(event, ngh2.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, ngh2.GoAwayReceived):
            self.goaways.append(event.last_stream_id)
        elif isinstance(event, ngh2.ConnectionClosed):
            self._over = True

    def status(self, stream: int) -> tuple[int, str]:
        """The status of a call, when it has come."""
        self.until(lambda: stream in self.ended or stream in self.resets or self.closed)
        found = self.headers[stream]
        return int(found.get(b"grpc-status", b"-1")), found.get(b"grpc-message", b"").decode()
