"""Calls over gRPC, unary or streamed."""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from loadtest.wire.messages import (
    INFER,
    READERS,
    Outcome,
    Request,
    failed,
    infer_options,
    read_streamed,
    trace_options,
    vision_options,
)
from serving.client.tls import ClientTls, channel_to

_MAX_MESSAGE_BYTES = 256 << 20
_VISION = "/convserve.vision.v1.VisionService/"
_OIP = "/inference.GRPCInferenceService/"
_INTERNAL = grpc.StatusCode.INTERNAL.value[0]
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]
# Seconds from a broken stream to the next: less has a dead server tried in a tight loop.
_STREAM_PAUSE = 0.05


Metadata = tuple[tuple[str, str], ...]


def metadata_of(headers: Mapping[str, str] | None) -> Metadata:
    """Headers as gRPC takes them."""
    return tuple((headers or {}).items())


def _traced(metadata: Metadata, request: Request) -> Metadata:
    """The metadata of a request that may have a span."""
    return (*metadata, ("traceparent", span)) if (span := request.traceparent) else metadata


def open_channel(url: str, tls: ClientTls | None) -> grpc.aio.Channel:
    """A connection of its own. Raises BadTls."""
    return channel_to(
        url,
        tls,
        options=[
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # A connection for each client, where several share a process.
            ("grpc.use_local_subchannel_pool", 1),
            # A lost call must show. Retries also take 5 % of the CPU of a call.
            ("grpc.enable_retries", 0),
        ],
    )


class UnaryClient:
    """One call a request. A call without a deadline gets `timeout` seconds."""

    def __init__(
        self,
        url: str,
        timeout: float,
        tls: ClientTls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._timeout = timeout
        self._metadata = metadata_of(headers)
        self._channel = open_channel(url, tls)
        # No serializers: requests are encoded already, answers are decoded as far as needed.
        self._calls: dict[str, Any] = {
            method: self._channel.unary_unary(
                (_OIP if method == INFER else _VISION) + method, None, None
            )
            for method in READERS
        }

    async def call(self, request: Request, deadline: float, priority: int) -> Outcome:
        """Sends a request; `deadline` is in seconds, 0 for none."""
        method = request.method
        body = request.body
        if priority:
            options = infer_options if method == INFER else vision_options
            body += options(priority, 0.0)
        try:
            content = await self._calls[method](
                body,
                timeout=deadline or self._timeout,
                metadata=_traced(self._metadata, request),
            )
            return READERS[method](content, request.expected)
        except grpc.aio.AioRpcError as error:
            return failed(error.code().value[0])
        except DecodeError:
            return failed(_INTERNAL)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()


class StreamClient:
    """Requests over `streams` long streams, whose answers come in the order of the requests."""

    def __init__(
        self,
        url: str,
        timeout: float,
        streams: int,
        tls: ClientTls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._timeout = timeout
        self._metadata = metadata_of(headers)
        self._channel = open_channel(url, tls)
        self._count = streams
        self._streams: dict[str, itertools.cycle[_Stream]] = {}

    async def call(self, request: Request, deadline: float, priority: int) -> Outcome:
        """Sends a request; `deadline` is in seconds, 0 for none."""
        streams = self._streams.get(request.method)
        if streams is None:
            streams = self._open(request.method)
        body = request.body
        if priority or deadline:
            options = infer_options if request.method == INFER else vision_options
            body += options(priority, deadline)
        if request.traceparent:
            body += trace_options(request.traceparent)
        return await next(streams).call(body, request.expected, deadline or self._timeout)

    def _open(self, method: str) -> "itertools.cycle[_Stream]":
        name = f"{_OIP}ModelStreamInfer" if method == INFER else f"{_VISION}{method}Stream"
        opened = itertools.cycle(
            [_Stream(self._channel, name, method, self._metadata) for _ in range(self._count)]
        )
        self._streams[method] = opened
        return opened

    async def close(self) -> None:
        """Closes the connection and every stream."""
        await self._channel.close()


# The future of an answer, and the labels that the answer should have.
_Waiting = tuple["asyncio.Future[Outcome]", Sequence[str]]


class _Stream:
    """One stream. When it breaks, its open requests fail, and the next request opens it again.

    One task writes all requests: gRPC takes one write at a time, and a lock would wake every
    caller once more.
    """

    def __init__(
        self, channel: grpc.aio.Channel, name: str, method: str, metadata: Metadata
    ) -> None:
        self._open: Any = channel.stream_stream(name, None, None)
        self._metadata = metadata
        self._read_answer = read_streamed if method == INFER else READERS[method]
        self._outbox: deque[tuple[bytes, _Waiting]] = deque()
        self._pending: deque[_Waiting] = deque()
        # The writer waits on it while the outbox is empty.
        self._wanted: asyncio.Future[None] | None = None
        self._running: asyncio.Task[None] | None = None

    async def call(self, body: bytes, expected: Sequence[str], timeout: float) -> Outcome:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        # Takes a third of the CPU of asyncio.timeout.
        timer = loop.call_later(timeout, _expire, answer)
        self._outbox.append((body, (answer, expected)))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        elif self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)
        try:
            return await answer
        finally:
            timer.cancel()

    async def _run(self) -> None:
        """Runs the stream from its first request to its end."""
        call = self._open(metadata=self._metadata)
        writer = asyncio.create_task(self._write(call))
        status = await self._read(call)
        writer.cancel()
        await asyncio.sleep(_STREAM_PAUSE)
        lost = [*self._pending, *(waiting for _, waiting in self._outbox)]
        self._pending.clear()
        self._outbox.clear()
        self._running = None
        for answer, _ in lost:
            if not answer.done():
                answer.set_result(failed(status))

    async def _write(self, call: Any) -> None:
        outbox, pending = self._outbox, self._pending
        # The reader gets the status of a stream that breaks.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                while outbox:
                    body, waiting = outbox.popleft()
                    pending.append(waiting)
                    await call.write(body)
                self._wanted = asyncio.get_running_loop().create_future()
                await self._wanted

    async def _read(self, call: Any) -> int:
        """Hands out answers until the stream ends; returns the status of its end."""
        try:
            while (content := await call.read()) is not grpc.aio.EOF:
                answer, expected = self._pending.popleft()
                # The future of a request that timed out is done.
                if not answer.done():
                    answer.set_result(self._read_answer(content, expected))
        except grpc.aio.AioRpcError as error:
            return int(error.code().value[0])
        except (DecodeError, IndexError):
            # The answer cannot be decoded, or no request waits for it.
            call.cancel()
            return _INTERNAL
        return _UNAVAILABLE


def _expire(answer: asyncio.Future[Outcome]) -> None:
    if not answer.done():
        answer.set_result(failed(grpc.StatusCode.DEADLINE_EXCEEDED.value[0]))
