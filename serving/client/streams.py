"""Many calls over few streams: a message on an open stream costs less than a call of its own."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc

Request = TypeVar("Request")
Response = TypeVar("Response")

# Seconds before a stream is replaced. A stream stays on the server on which it was opened: shorter
# spreads load over added servers sooner, longer opens fewer streams.
MAX_AGE_SECONDS = 60.0


class StreamBroken(Exception):
    """The stream ended before the answer came. The request may be sent again on another stream."""


class SharedStream(Generic[Request, Response]):
    """Sends the requests of all callers on one stream, and hands each caller its own answer.

    Answers come in the order of the requests. A stream that is old or broken is replaced by one of
    the next opener.

    openers: each opens a stream on a server of its own.
    max_age: seconds after which a stream is replaced.
    """

    def __init__(
        self, openers: Sequence[Callable[[], Any]], max_age: float = MAX_AGE_SECONDS
    ) -> None:
        self._openers = openers
        self._max_age = max_age
        self._opened = 0
        self._current: _Stream[Request, Response] | None = None
        self._all: set[_Stream[Request, Response]] = set()

    async def ask(self, request: Request) -> Response:
        """The answer to a request. Raises StreamBroken."""
        stream = self._current
        if stream is None or stream.broken or time.monotonic() - stream.opened > self._max_age:
            if stream is not None:
                stream.finish()
            opener = self._openers[self._opened % len(self._openers)]
            self._opened += 1
            stream = self._current = _Stream(opener(), self._all.discard)
            self._all.add(stream)
        return await stream.ask(request)

    async def close(self) -> None:
        """Ends every stream; calls that are under way fail."""
        streams = list(self._all)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*(stream.reader for stream in streams), return_exceptions=True)


class _Stream(Generic[Request, Response]):
    def __init__(self, call: Any, ended: "Callable[[_Stream[Request, Response]], None]") -> None:
        self.opened = time.monotonic()
        self.broken = False
        self._call = call
        self._ended = ended
        self._waiting: deque[asyncio.Future[Response]] = deque()
        self._writing = asyncio.Lock()
        self._finishing = False
        self.reader = asyncio.create_task(self._read())

    async def ask(self, request: Request) -> Response:
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        try:
            # Answers come in the order of the writes, so both happen under one lock.
            async with self._writing:
                self._waiting.append(answer)
                await self._call.write(request)
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            self.broken = True
            answer.cancel()
            raise StreamBroken(str(error)) from error
        return await answer

    async def _read(self) -> None:
        reason = "the stream ended"
        try:
            async for response in self._call:
                answer = self._waiting.popleft()
                if not answer.done():
                    answer.set_result(response)
                if self._finishing and not self._waiting:
                    await self._call.done_writing()
        except grpc.RpcError as error:
            reason = f"the stream broke: {error}"
        finally:
            self.broken = True
            for answer in self._waiting:
                if not answer.done():
                    answer.set_exception(StreamBroken(reason))
            self._ended(self)

    def finish(self) -> None:
        """No more requests; the stream ends with its last answer."""
        self._finishing = True
        if not self._waiting:
            self._call.cancel()

    def cancel(self) -> None:
        """Ends the stream now."""
        self._call.cancel()
        self.reader.cancel()
