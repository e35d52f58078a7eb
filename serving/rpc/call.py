"""What every call goes through: byte budget, deadline, measuring, and errors turned to statuses."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from serving.batching.admission import ByteBudget
from serving.errors import ModelNotReady, QueueFull, ServingError
from serving.metrics import Metrics
from serving.model import CallOptions, Model
from serving.registry import Registry
from serving.rpc.status import abort, code_of

logger = logging.getLogger(__name__)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]

# Requests of one stream that may be under way; the next is read when the oldest is answered.
STREAM_WINDOW = 64


class Call:
    """One call: which model it found, and by when it must be answered (monotonic seconds)."""

    def __init__(self, registry: Registry, deadline: float) -> None:
        self._registry = registry
        self.model: Model | None = None
        self.deadline = deadline

    def resolve(self, name: str, version: str) -> Model:
        """The model that the call names. Raises ModelNotFound, ModelNotReady."""
        self.model = self._registry.get(name, version)
        return self.model

    def options(self, priority: int, timeout: float) -> CallOptions:
        """priority 0 and timeout 0 (seconds) are the model's defaults; of the caller's two
        deadlines the earlier counts."""
        deadline = self.deadline
        if timeout > 0:
            deadline = min(deadline, time.monotonic() + timeout)
        return CallOptions(priority=priority, deadline=deadline)


class Front:
    """Runs the handler of every inference call, unary or of a stream."""

    def __init__(self, registry: Registry, metrics: Metrics, budget: ByteBudget) -> None:
        self.registry = registry
        self._metrics = metrics
        self._budget = budget
        self._closing = False
        self._running = 0
        self._last_seen = -math.inf
        self._readers: set[asyncio.Task[None]] = set()

    def quiet_for(self, seconds: float) -> bool:
        """Whether no call has been under way for this long."""
        return not self._running and time.monotonic() - self._last_seen >= seconds

    def close(self) -> None:
        """Refuses new calls as UNAVAILABLE, which callers may retry elsewhere; those under way are
        finished, and a stream ends when what it has sent is answered."""
        self._closing = True
        for reader in self._readers:
            reader.cancel()

    async def run(
        self,
        method: str,
        request: Request,
        deadline: float,
        handler: Callable[[Request, Call], Awaitable[Response]],
    ) -> Response:
        """Runs one call and counts how it ended. Raises ServingError: a failure that is not one of
        ours goes to the log with its traceback, and to the caller as a plain INTERNAL."""
        call = Call(self.registry, deadline)
        begin = time.monotonic()
        size = request.ByteSize()
        code = grpc.StatusCode.OK
        self._running += 1
        try:
            if self._closing:
                raise ModelNotReady("the server is shutting down")
            self._take_bytes(size)
            try:
                return await handler(request, call)
            finally:
                self._give_bytes_back(size)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except ServingError as error:
            code = code_of(error)
            raise
        except Exception as error:
            code = grpc.StatusCode.INTERNAL
            logger.exception("call failed", extra={"method": method})
            raise ServingError("internal error; the server's log says more") from error
        finally:
            self._running -= 1
            self._last_seen = time.monotonic()
            self._count(call, method, code, time.monotonic() - begin)

    async def unary(
        self,
        method: str,
        request: Request,
        context: Context,
        handler: Callable[[Request, Call], Awaitable[Response]],
    ) -> Response:
        """A unary call: an error ends it with its status."""
        remaining = context.time_remaining()
        deadline = math.inf if remaining is None else time.monotonic() + remaining
        try:
            return await self.run(method, request, deadline, handler)
        except ServingError as error:
            await abort(context, error)

    async def stream(
        self,
        method: str,
        requests: AsyncIterable[Request],
        context: Context,
        handler: Callable[[Request, Call], Awaitable[Response]],
        failed: Callable[[Request, ServingError], Response],
    ) -> AsyncIterator[Response]:
        """A stream of calls, answered in their order; `failed` makes the answer of one that failed,
        and the stream goes on."""
        remaining = context.time_remaining()
        deadline = math.inf if remaining is None else time.monotonic() + remaining

        async def answer(request: Request) -> Response:
            try:
                return await self.run(method, request, deadline, handler)
            except ServingError as error:
                return failed(request, error)

        # Two more are outside it: the one waited for, and the one that waits for a place.
        window: asyncio.Queue[asyncio.Task[Response] | None] = asyncio.Queue(STREAM_WINDOW - 2)

        async def read() -> None:
            try:
                async for request in requests:
                    await window.put(asyncio.create_task(answer(request)))
            finally:
                await window.put(None)

        reader = asyncio.create_task(read())
        self._readers.add(reader)
        task: asyncio.Task[Response] | None = None
        try:
            while (task := await window.get()) is not None:
                yield await task
        finally:
            # Where the caller went away, nobody waits for what is still under way.
            self._readers.discard(reader)
            reader.cancel()
            if task is not None:
                task.cancel()
            while not window.empty():
                waiting = window.get_nowait()
                if waiting is not None:
                    waiting.cancel()

    def _take_bytes(self, size: int) -> None:
        try:
            self._budget.take(size)
        except QueueFull:
            self._metrics.shed.labels("", "bytes").inc()
            raise
        self._metrics.inflight_bytes.set(self._budget.used)

    def _give_bytes_back(self, size: int) -> None:
        self._budget.give_back(size)
        self._metrics.inflight_bytes.set(self._budget.used)

    def _count(self, call: Call, method: str, code: grpc.StatusCode, seconds: float) -> None:
        model = call.model
        name, version = (model.name, model.version) if model else ("", "")
        self._metrics.requests.labels(name, version, method, code.name).inc()
        if model is None:
            return
        if code is grpc.StatusCode.OK:
            model.counters.success.add(seconds)
            self._metrics.request_seconds.labels(name, version).observe(seconds)
        else:
            model.counters.fail.add(seconds)
