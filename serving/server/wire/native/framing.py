"""Messages of gRPC in the DATA of HTTP/2: a flag, four bytes of length, the message."""

from collections import deque

import grpc

from serving.base.growing import Growing
from serving.server.wire.interface import End

PREFIX = 5
# Bytes that a message costs beside its own: the object and its place. Fewer let a caller who sends
# small ones take more than is counted.
_MESSAGE_BYTES = 64
# Where no message is under way.
_NOTHING = Growing()


class Messages:
    """Takes what arrives on one stream apart.

    A message that comes in several frames is written to one place: unlike a list of pieces it costs
    no more in small frames, and is handed out without a copy.

    limit: bytes that a message may have.
    whole: messages that wait for their reader.
    lacking: bytes that the message under way lacks; 0 where none is.
    size: bytes that it will have.
    cost: bytes of all that is kept here.
    """

    __slots__ = ("_body", "_head", "cost", "lacking", "limit", "size", "whole")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.whole: deque[bytes] = deque()
        self.lacking = self.size = self.cost = 0
        self._head = b""
        self._body = _NOTHING

    @property
    def partial(self) -> bool:
        """Whether a message has begun to come."""
        return bool(self.lacking or self._head)

    def add(self, data: bytes) -> None:
        """Takes the bytes of a frame. Raises End for a message that is too large, of which nothing
        is kept, or compressed."""
        if not self.lacking and not self._head and len(data) >= PREFIX and not data[0]:
            size = int.from_bytes(data[1:PREFIX], "big")
            if len(data) == PREFIX + size <= self.limit:  # most are one frame
                self._put(data[PREFIX:])
                return
        self._take_apart(memoryview(data))

    def _take_apart(self, data: memoryview) -> None:
        at, end = 0, len(data)
        while at < end:
            if not self.lacking:
                at = self._begin(data, at)
                continue
            part = data[at : at + self.lacking]
            self._body.write(part)
            at += len(part)
            self.cost += len(part)
            self.lacking -= len(part)
            if not self.lacking:
                self.cost -= self.size
                self._put(self._body.take())
                self._body = _NOTHING

    def _begin(self, data: memoryview, at: int) -> int:
        """Reads a prefix, and the message behind it where it is there as a whole; returns the end
        of both."""
        missing = PREFIX - len(self._head)
        self._head += data[at : at + missing]
        at += missing
        if len(self._head) < PREFIX:
            return len(data)
        flag, size = self._head[0], int.from_bytes(self._head[1:], "big")
        self._head = b""
        self._check(flag, size)
        if at + size <= len(data):
            self._put(bytes(data[at : at + size]))
            return at + size
        self.size = self.lacking = size
        self._body = Growing(size)
        return at

    def _check(self, flag: int, size: int) -> None:
        if flag == 1:
            raise End(
                grpc.StatusCode.UNIMPLEMENTED,
                "compressed messages are not taken: inflating them would hold the server up",
            )
        if flag:
            raise End(grpc.StatusCode.INTERNAL, f"a message begins with 0 or 1, got {flag}")
        if size > self.limit:
            raise End(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                # gRPC's own words come first: clients know by them that a retry is in vain.
                f"message larger than max: expected at most {self.limit} bytes, got {size}",
            )

    def _put(self, message: bytes) -> None:
        self.whole.append(message)
        self.cost += len(message) + _MESSAGE_BYTES

    def take(self) -> bytes:
        """The first whole message."""
        message = self.whole.popleft()
        self.cost -= len(message) + _MESSAGE_BYTES
        return message

    def drop(self) -> None:
        """Lets go of everything."""
        self.whole.clear()
        self.lacking = self.size = self.cost = 0
        self._head = b""
        self._body = _NOTHING


def prefix(size: int) -> bytes:
    """The bytes before a message of so many bytes."""
    return size.to_bytes(PREFIX, "big")
