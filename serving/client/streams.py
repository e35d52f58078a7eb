"""Many calls over few streams: a message on an open stream costs less than a call of its own.

Every message carries an id of its own, and an answer goes to the caller whose id it carries.
Callers only queue their messages, and one task of the stream writes them, since a write that is
cancelled ends its stream for everybody. So a caller may be cancelled at any point, and no other
feels it.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic

import grpc

from serving.client.calls import CallFailed, failed, retry_after, serialised
from serving.client.requests import Answer, AnyRequest

# Seconds before a stream is replaced. A stream stays on the server on which it was opened: shorter
# spreads load over added servers sooner, longer opens fewer streams.
MAX_AGE_SECONDS = 60.0
# Messages of a stream that are sent and not answered. A server reads 64 ahead: fewer would let it
# wait, more would only wait in its buffers. Further ones wait here, and go when their callers do.
_WINDOW = 128
# Seconds that a timer may ring late before it counts as one of an event loop that stood still, as
# VisionClient's does between two calls. Answers that came meanwhile get as long to be read.
_LATE = 0.1
# Codes with which a server refuses a stream for good. All others say that it ended early.
_REFUSALS = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED")
# Characters of a strange id in an error.
_SHOWN_ID = 80


class StreamBroken(CallFailed):
    """The stream ended before the answer came. Where its code is UNAVAILABLE, the request may be
    sent again on another stream."""


class SharedStream(Generic[Answer]):
    """Sends the requests of all callers on one stream, and hands each caller its own answer.

    A stream that is old or broken is replaced by one of the next opener.

    openers: each opens a stream of serialised requests on a server of its own.
    max_message_bytes: the largest request.
    max_age: seconds after which a stream is replaced.
    """

    def __init__(
        self,
        openers: Sequence[Callable[[], Any]],
        max_message_bytes: int,
        max_age: float = MAX_AGE_SECONDS,
    ) -> None:
        self._openers = openers
        self._most = max_message_bytes
        self._max_age = max_age
        self._opened = 0
        self._ids = itertools.count(1)
        self._current: _Stream[Answer] | None = None
        self._all: set[_Stream[Answer]] = set()
        self._closed = False

    async def ask(self, request: AnyRequest, left: float) -> Answer:
        """The answer to a request, within `left` seconds; both travel in its options, the id beside
        the caller's own. Raises CallFailed, and its StreamBroken."""
        if self._closed:
            raise StreamBroken("CANCELLED", "the client was closed")
        if left <= 0:
            raise _too_late(left)
        stream = self._current
        now = asyncio.get_running_loop().time()
        if stream is None or stream.broken or now - stream.opened > self._max_age:
            if stream is not None:
                stream.finish()
            opener = self._openers[self._opened % len(self._openers)]
            self._opened += 1
            stream = self._current = _Stream(opener(), self._most, self._all.discard)
            self._all.add(stream)
        response = await stream.ask(f"{next(self._ids)} {request.options.id}", request, left)
        if response.served.status.code:
            raise failed(response.served.status)
        return response

    async def close(self) -> None:
        """Ends every stream; calls that are under way fail."""
        self._closed = True
        for stream in list(self._all):
            await stream.close()


class _Message(Generic[Answer]):
    """A request whose caller waits.

    due: when its time runs out, on the loop's clock.
    own_id: the id that its caller gave it.
    """

    __slots__ = ("answer", "due", "own_id", "request", "timer")

    def __init__(self, request: AnyRequest, due: float, answer: "asyncio.Future[Answer]") -> None:
        self.request = request
        self.due = due
        self.own_id = request.options.id
        self.answer: asyncio.Future[Answer] = answer
        self.timer: asyncio.TimerHandle | None = None


class _Stream(Generic[Answer]):
    def __init__(self, call: Any, most: int, ended: Callable[[Any], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.opened = self._loop.time()
        self.broken = False
        self._call = call
        self._most = most
        self._ended = ended
        # By id. A message is in one of them while its caller waits; an id without a message is that
        # of a caller who has left.
        self._unsent: OrderedDict[str, _Message[Answer]] = OrderedDict()
        self._sent: dict[str, _Message[Answer] | None] = {}
        self._callers = 0
        self._finishing = False
        self._fault: Exception | None = None
        # There is something to write, or a place in the window.
        self._news = asyncio.Event()
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())
        # A callback, since a task that is cancelled before its first step runs no `finally`.
        self._reader.add_done_callback(self._end)

    async def ask(self, key: str, request: AnyRequest, left: float) -> Answer:
        answer: asyncio.Future[Answer] = self._loop.create_future()
        message = _Message(request, self._loop.time() + left, answer)
        message.timer = self._loop.call_at(message.due, self._expire, message, left)
        self._unsent[key] = message
        self._callers += 1
        self._news.set()
        try:
            response = await answer
        finally:
            message.timer.cancel()
            self._unsent.pop(key, None)
            if key in self._sent:
                self._sent[key] = None
            self._callers -= 1
            if self._finishing and not self._callers:
                self._cancel()
        response.served.id = message.own_id
        return response

    def _expire(self, message: _Message[Answer], left: float) -> None:
        now = self._loop.time()
        assert message.timer is not None
        if now - message.timer.when() > _LATE:
            message.timer = self._loop.call_at(now + _LATE, self._expire, message, left)
        elif not message.answer.done():
            message.answer.set_exception(_too_late(left))

    async def _write(self) -> None:
        try:
            while True:
                while self._unsent and len(self._sent) < _WINDOW:
                    key, message = self._unsent.popitem(last=False)
                    if message.answer.done():
                        continue
                    try:
                        data = self._serialised(key, message)
                    except Exception as error:
                        message.answer.set_exception(error)
                        continue
                    self._sent[key] = message
                    await self._call.write(data)
                self._news.clear()
                await self._news.wait()
        except Exception as error:
            # Where the stream has ended, the reader learns why.
            self._fault = error
        finally:
            self._call.cancel()

    def _serialised(self, key: str, message: _Message[Answer]) -> bytes:
        left = message.due - self._loop.time()
        if left <= 0:
            raise _too_late(left)
        options = message.request.options
        options.id = key
        # At least a nanosecond: a timeout of zero is none.
        options.timeout.FromNanoseconds(int(left * 1e9) + 1)
        try:
            return serialised(message.request, self._most)
        finally:
            options.id = message.own_id

    async def _read(self) -> None:
        async for response in self._call:
            if response is None:
                raise _StrangeAnswer("an answer that cannot be read")
            key = response.served.id
            if key not in self._sent:
                raise _StrangeAnswer(f"an answer with id {key[:_SHOWN_ID]!r}, which no request has")
            message = self._sent.pop(key)
            if self._unsent:
                self._news.set()
            if message is not None and not message.answer.done():
                message.answer.set_result(response)

    def _end(self, reader: "asyncio.Task[None]") -> None:
        self.broken = True
        self._call.cancel()
        self._writer.cancel()
        reason = self._fault if reader.cancelled() else reader.exception()
        for message in (*self._unsent.values(), *self._sent.values()):
            if message is not None and not message.answer.done():
                message.answer.set_exception(_broken(reason))
        self._unsent.clear()
        self._sent.clear()
        self._ended(self)

    def finish(self) -> None:
        """No more requests; the stream ends with its last caller."""
        self._finishing = True
        if not self._callers:
            self._cancel()

    async def close(self) -> None:
        """Ends the stream now."""
        self._cancel()
        await asyncio.gather(self._reader, self._writer, return_exceptions=True)

    def _cancel(self) -> None:
        self._call.cancel()
        self._reader.cancel()


class _StrangeAnswer(Exception):
    """The server broke the protocol; none of its further answers can be trusted."""


def _broken(reason: BaseException | None) -> StreamBroken:
    match reason:
        case grpc.aio.AioRpcError():
            code = reason.code().name
            return StreamBroken(
                code if code in _REFUSALS else "UNAVAILABLE",
                f"the stream broke: {code}: {reason.details()}",
                retry_after(reason),
            )
        case None:
            return StreamBroken("UNAVAILABLE", "the stream ended")
        case _:
            return StreamBroken("UNAVAILABLE", f"the stream broke: {reason}")


def _too_late(left: float) -> CallFailed:
    return CallFailed("DEADLINE_EXCEEDED", f"no answer came within {max(left, 0.0):.3g} s")
