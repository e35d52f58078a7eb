"""Bodies of requests: read in pieces, each of which the memory budget has room for."""

import asyncio

from aiohttp import web

from serving.base.errors import RequestTooLarge, RequestTooSlow
from serving.base.growing import Growing
from serving.server.endpoints.call import Call
from serving.server.http.compression import Inflater
from serving.server.http.connection import Connection
from serving.server.http.connections import SLOWEST_RATE

# Bytes from which a piece of an inflated body takes a turn.
_PIECE = 32 << 10
# The largest body of any other call.
LARGEST = web.AppKey("largest", int)


async def read_body(
    call: Call, request: web.Request, limit: int | None = None, hint: str = ""
) -> bytes:
    """The whole body, decompressed. The call holds it in the memory budget from the moment that it
    arrives. limit: bytes that it may have, beside LARGEST of the application. hint: for whoever
    sends more.

    Raises RequestTooLarge, RequestTooSlow, InvalidInput, QueueFull, and what reading raises.
    """
    largest = request.app[LARGEST]
    limit = largest if limit is None else min(limit, largest)
    if (request.content_length or 0) > limit:
        raise _too_large(limit, hint)
    coding = request.headers.get("Content-Encoding")
    inflater = None if coding is None else Inflater.of(coding)
    body = _Body(call, limit, hint, 0 if inflater else request.content_length or 0)
    content = request.content
    if content.is_eof() and inflater is None:
        return body.take(content.read_nowait())
    connection = request.protocol
    assert isinstance(connection, Connection)
    limits = connection.limits
    loop = asyncio.get_running_loop()
    began, received = loop.time(), 0
    try:
        async with asyncio.timeout(None) as alarm:
            while True:
                end = began + limits.transfer + received / SLOWEST_RATE
                alarm.reschedule(min(loop.time() + limits.stall, end))
                data = await content.readany()
                if not data:
                    break
                # The time until the next read is the server's, and does not count.
                alarm.reschedule(None)
                came = loop.time()
                received += len(data)
                if inflater is None:
                    body.add(data)
                else:
                    for piece in inflater.inflate(data):
                        body.add(piece)
                        # The event loop answers other calls in between.
                        if len(piece) > _PIECE:
                            await connection.turns.next()
                began += loop.time() - came
    except TimeoutError as error:
        raise RequestTooSlow(
            f"body: {received} bytes came in {loop.time() - began:.1f} s; expected no pause above "
            f"{limits.stall:g} s, and {limits.transfer:g} s in all beside one for every "
            f"{SLOWEST_RATE} bytes"
        ) from error
    if inflater is not None:
        inflater.close()
    return body.whole()


class _Body:
    """The bytes so far, held by the call. announced: how many there are to be; 0 for unknown."""

    def __init__(self, call: Call, limit: int, hint: str, announced: int) -> None:
        self._call = call
        self._limit = limit
        self._hint = hint
        self._size = 0
        self._bytes = Growing(announced)

    def take(self, data: bytes) -> bytes:
        """A body that is there as a whole."""
        self._hold(len(data))
        return data

    def add(self, data: bytes) -> None:
        """Appends a piece. Raises RequestTooLarge, QueueFull."""
        self._hold(len(data))
        self._bytes.write(data)

    def whole(self) -> bytes:
        """All of it."""
        return self._bytes.take()

    def _hold(self, size: int) -> None:
        self._size += size
        if self._size > self._limit:
            raise _too_large(self._limit, self._hint)
        self._call.hold("message", size)


def _too_large(limit: int, hint: str) -> RequestTooLarge:
    return RequestTooLarge(f"body: more than {limit} bytes{hint}")
