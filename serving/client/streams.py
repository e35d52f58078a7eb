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
from serving.client.trace import trace_headers

# Seconds before a stream is replaced. A stream stays on the server on which it was opened: shorter
# spreads load over added servers sooner, longer opens fewer streams.
MAX_AGE_SECONDS = 60.0
# Messages of a stream that are sent and not answered. A server reads 64 ahead: fewer would let it
# wait, more would only wait in its buffers. Further ones wait here, and go when their callers do.
_WINDOW = 128
# Bytes of the largest message that shares a stream. A larger one has its own: others would wait
# behind it, and a server or a proxy that refuses its size ends the stream. Beside the cost of so
# many bytes that of a stream is small.
_ALONE = 1 << 20
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
        """The answer to a request, within `left` seconds; both travel in its options, the id before
        the caller's own. Raises CallFailed, and its StreamBroken."""
        if self._closed:
            raise StreamBroken("CANCELLED", "the client was closed")
        if left <= 0:
            raise _too_late(left)
        options = request.options
        own_id = options.id
        options.id = key = f"{next(self._ids)} {own_id}"
        # At least a nanosecond: a timeout of zero is none.
        options.timeout.FromNanoseconds(int(left * 1e9) + 1)
        trace = trace_headers()
        options.traceparent = trace.get("traceparent", "")
        options.tracestate = trace.get("tracestate", "")
        try:
            data = serialised(request, self._most)
        finally:
            options.id = own_id
        response = await self._stream_for(data).ask(key, data, left)
        response.served.id = own_id
        if response.served.status.code:
            raise failed(response.served.status)
        return response

    def _stream_for(self, data: bytes) -> "_Stream[Answer]":
        if len(data) > _ALONE:
            return self._open(alone=True)
        stream = self._current
        now = asyncio.get_running_loop().time()
        if stream is None or stream.broken or now - stream.opened > self._max_age:
            if stream is not None:
                stream.finish()
            stream = self._current = self._open(alone=False)
        return stream

    def _open(self, alone: bool) -> "_Stream[Answer]":
        opener = self._openers[self._opened % len(self._openers)]
        self._opened += 1
        stream: _Stream[Answer] = _Stream(opener(), alone, self._all.discard)
        self._all.add(stream)
        return stream

    async def close(self) -> None:
        """Ends every stream; calls that are under way fail."""
        self._closed = True
        for stream in list(self._all):
            await stream.close()


class _Stream(Generic[Answer]):
    """One stream.

    alone: it is for one message.
    ended: called with the stream once it has ended.
    """

    def __init__(self, call: Any, alone: bool, ended: Callable[[Any], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.opened = self._loop.time()
        self.broken = False
        self._call = call
        self._alone = alone
        # It ends once nobody waits for an answer of it.
        self._last = alone
        self._ended = ended
        self._callers = 0
        # By id. Futures of callers who have left are done; their messages are not sent any more, or
        # their answers are dropped.
        self._unsent: OrderedDict[str, tuple[bytes, asyncio.Future[Answer]]] = OrderedDict()
        self._sent: dict[str, asyncio.Future[Answer]] = {}
        self._fault: Exception | None = None
        # There is something to write, or a place in the window.
        self._news = asyncio.Event()
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())
        # A callback, since a task that is cancelled before its first step runs no `finally`.
        self._reader.add_done_callback(self._end)

    async def ask(self, key: str, data: bytes, left: float) -> Answer:
        answer: asyncio.Future[Answer] = self._loop.create_future()
        due = self._loop.time() + left
        timer = self._loop.call_at(due, self._expire, answer, due, left)
        self._unsent[key] = data, answer
        self._callers += 1
        self._news.set()
        try:
            return await answer
        finally:
            timer.cancel()
            self._unsent.pop(key, None)
            self._callers -= 1
            if self._last and not self._callers:
                self._cancel()

    def _expire(self, answer: "asyncio.Future[Answer]", due: float, left: float) -> None:
        if answer.done():
            return
        now = self._loop.time()
        if now - due > _LATE:
            self._loop.call_at(now + _LATE, self._expire, answer, now + _LATE, left)
        else:
            answer.set_exception(_too_late(left))

    async def _write(self) -> None:
        try:
            while True:
                while self._unsent and len(self._sent) < _WINDOW:
                    key, (data, answer) = self._unsent.popitem(last=False)
                    if not answer.done():
                        self._sent[key] = answer
                        await self._call.write(data)
                self._news.clear()
                await self._news.wait()
        except Exception as error:
            # Where the stream has ended, the reader learns why.
            self._fault = error
        finally:
            self._call.cancel()

    async def _read(self) -> None:
        async for response in self._call:
            if response is None:
                raise _StrangeAnswer("an answer that cannot be read")
            key = response.served.id
            if key not in self._sent:
                raise _StrangeAnswer(f"an answer with id {key[:_SHOWN_ID]!r}, which no request has")
            answer = self._sent.pop(key)
            if self._unsent:
                self._news.set()
            if not answer.done():
                answer.set_result(response)

    def _end(self, reader: "asyncio.Task[None]") -> None:
        self.broken = True
        self._call.cancel()
        self._writer.cancel()
        reason = self._fault if reader.cancelled() else reader.exception()
        for answer in (*self._sent.values(), *(answer for _, answer in self._unsent.values())):
            if not answer.done():
                answer.set_exception(_broken(reason, self._alone))
        self._unsent.clear()
        self._sent.clear()
        self._ended(self)

    def finish(self) -> None:
        """No more requests; the stream ends with its last caller."""
        self._last = True
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


def _broken(reason: BaseException | None, alone: bool) -> StreamBroken:
    match reason:
        case grpc.aio.AioRpcError():
            code = reason.code().name
            # Alone, its message may be the one that is refused; on a shared stream it is another.
            final = code in _REFUSALS or (alone and code == "RESOURCE_EXHAUSTED")
            return StreamBroken(
                code if final else "UNAVAILABLE",
                f"the stream broke: {code}: {reason.details()}",
                retry_after(reason),
            )
        case None:
            return StreamBroken("UNAVAILABLE", "the stream ended")
        case _:
            return StreamBroken("UNAVAILABLE", f"the stream broke: {reason}")


def _too_late(left: float) -> CallFailed:
    return CallFailed("DEADLINE_EXCEEDED", f"no answer came within {max(left, 0.0):.3g} s")
