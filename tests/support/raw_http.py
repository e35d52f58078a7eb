"""HTTP by hand, for callers that do what no client would."""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

# Seconds for which a connection waits for its server.
PATIENCE = 10.0


@contextlib.contextmanager
def connected(url: str, *, source: str = "", buffer: int = 0) -> Iterator[socket.socket]:
    """A connection to the server of a URL. source: the address that it comes from. buffer: bytes
    that its system takes unread."""
    found = urlsplit(url)
    with socket.socket() as connection:
        if source:
            connection.bind((source, 0))
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(PATIENCE)
        connection.connect((found.hostname or "", found.port or 0))
        yield connection


def sent_and_reset(url: str, data: bytes) -> None:
    """Sends bytes and resets the connection: a server whose event loop is this thread's finds both
    when it accepts it."""
    with connected(url) as connection:
        connection.sendall(data)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Sends a request; the answer."""
    connection.sendall(request)
    return answer_of(connection)


def answer_of(connection: socket.socket) -> bytes:
    """One answer, whole; what was sent of it where the connection closed before."""
    answer = b""
    while not is_whole(answer):
        part = connection.recv(1 << 16)
        if not part:
            break
        answer += part
    return answer


def is_whole(answer: bytes) -> bool:
    """Whether it is all of an answer."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0]
    return bool(end) and len(body) >= int(length or 0)


def status_of(answer: bytes) -> int:
    """Its status; 0 where the connection closed without one."""
    if not answer:
        return 0
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> str:
    """The text of an error."""
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"])


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes the connection without a further byte."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns when a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)  # between two looks at a condition that no event tells of
