"""What every call goes through, whatever wire it came by: byte budget, measuring, closing time."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from serving.base.errors import ModelNotReady, QueueFull, ServingError
from serving.base.metrics import Metrics
from serving.batching.admission import ByteBudget
from serving.models.registry import Registry
from serving.models.servable import CallOptions, Servable
from serving.server.endpoints.status import status_of

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")

# Requests of one stream that may be under way; the next is read when the oldest is answered.
STREAM_WINDOW = 64


class Call:
    """One call: which model it found, and by when it must be answered (monotonic seconds).
    held: the bytes of its tensors or images."""

    __slots__ = ("_front", "deadline", "held", "id", "model")

    def __init__(self, front: "Front", deadline: float) -> None:
        self._front = front
        self.deadline = deadline
        self.model: Servable | None = None
        self.id = ""
        self.held = 0

    def resolve(self, name: str, version: str) -> Servable:
        """The model that the call names. Raises ModelNotFound, ModelNotReady."""
        self.model = self._front.registry.get(name, version)
        return self.model

    def hold(self, size: int) -> None:
        """Takes `size` bytes of what the server may hold until the call has ended. Raises
        QueueFull."""
        self._front.take_bytes(size)
        self.held += size

    def options(self, priority: int, timeout: float) -> CallOptions:
        """priority 0 and timeout 0 (seconds) are the model's defaults."""
        return CallOptions(priority, self.deadline, timeout if timeout > 0 else math.inf)


class Front:
    """Runs the handler of every inference call. slow_seconds: calls that take longer are logged; 0
    logs none."""

    def __init__(
        self, registry: Registry, metrics: Metrics, budget: ByteBudget, slow_seconds: float = 0.0
    ) -> None:
        self.registry = registry
        self._metrics = metrics
        self._budget = budget
        metrics.inflight_bytes.set_function(lambda: budget.used)
        self._slow_seconds = slow_seconds or math.inf
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
        deadline: float,
        handler: Callable[[Request, Call], Awaitable[Response]],
        request: Request,
    ) -> Response:
        """Runs one call, `handler` of `request`, and counts how it ended.

        Raises ServingError: a failure that is not one of ours goes to the log with its traceback,
        and to the caller as a plain INTERNAL.
        """
        call = Call(self, deadline)
        begin = time.monotonic()
        code = "OK"
        self._running += 1
        try:
            if self._closing:
                raise ModelNotReady("the server is shutting down")
            return await handler(request, call)
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except ServingError as error:
            code = status_of(error).code
            raise
        except Exception as error:
            code = "INTERNAL"
            logger.exception("call failed", extra={"method": method, "request_id": call.id})
            raise ServingError("internal error; the server's log says more") from error
        finally:
            self._budget.give_back(call.held)
            self._running -= 1
            self._last_seen = time.monotonic()
            self._count(call, method, code, self._last_seen - begin)

    async def stream(
        self,
        receive: Callable[[], Awaitable[Request]],
        end: object,
        send: Callable[[Response], Awaitable[None]],
        answer: Callable[[Request], Coroutine[Any, Any, Response]],
    ) -> None:
        """Answers the requests of a stream in their order, up to STREAM_WINDOW at a time, until it
        receives `end`. `answer` must not raise: what fails is said in its answer, and the stream
        goes on."""
        window: deque[asyncio.Task[Response]] = deque()
        # What the two who work on the window wait for: a call or the end, and a place.
        news, place = asyncio.Event(), asyncio.Event()

        async def read() -> None:
            try:
                while (request := await receive()) is not end:
                    while len(window) >= STREAM_WINDOW:
                        place.clear()
                        await place.wait()
                    window.append(asyncio.create_task(answer(request)))
                    news.set()
            finally:
                self._readers.discard(reader)
                news.set()

        reader = asyncio.create_task(read())
        self._readers.add(reader)
        try:
            while window or reader in self._readers:
                if window:
                    response = await window[0]
                    window.popleft()
                    place.set()
                    await send(response)
                else:
                    news.clear()
                    await news.wait()
        finally:
            # Where the caller went away, nobody waits for what is still under way.
            self._readers.discard(reader)
            reader.cancel()
            for task in window:
                task.cancel()

    def take_bytes(self, size: int) -> None:
        """Raises QueueFull, and counts that."""
        try:
            self._budget.take(size)
        except QueueFull:
            self._metrics.shed.labels("", "bytes").inc()
            raise

    def _count(self, call: Call, method: str, code: str, seconds: float) -> None:
        model = call.model
        name, version = (model.facts.name, model.facts.version) if model else ("", "")
        self._metrics.requests.count(name, version, method, code)
        if seconds > self._slow_seconds:
            logger.warning(
                "slow call",
                extra={
                    "method": method,
                    "request_id": call.id,
                    "model": name,
                    "code": code,
                    "milliseconds": round(seconds * 1e3, 1),
                },
            )
        if model is not None:
            model.call_ended(seconds, ok=code == "OK")
