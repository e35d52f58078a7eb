"""One call: its tries, its failures, and its way over a shared stream."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from protos.gen import vision_pb2 as pb
from serving.client.streams import SharedStream, StreamBroken

Response = TypeVar("Response")
Answer = TypeVar("Answer", pb.ClassifyResponse, pb.SegmentResponse, pb.EmbedResponse)
AnyRequest = pb.ClassifyRequest | pb.SegmentRequest | pb.EmbedRequest

# Codes of calls that were refused for the moment.
_RETRIED = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
# Seconds before the second try where the server names no delay; each further one doubles. Shorter
# answers sooner, longer spares a busy server.
_FIRST_BACKOFF = 0.05
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallFailed(Exception):
    """A call that the server, or the connection to it, did not answer.

    code: name of its gRPC status code.
    message: text of its status.
    retry_after: seconds that the server asked to wait; None where it named none.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, self.retry_after), self.__dict__

    @property
    def for_now(self) -> bool:
        """Whether the same call may succeed a little later."""
        return self.code in _RETRIED


class Tries:
    """Tries calls again that were refused for the moment.

    timeout: seconds of a call, all of its tries included.
    retries: tries after the first.
    """

    def __init__(self, timeout: float, retries: int) -> None:
        self._timeout = timeout
        self._retries = retries

    async def run(self, call: Callable[[float], Awaitable[Response]]) -> Response:
        """The answer of `call`, which gets the seconds that are left. Raises CallFailed once no try
        or no time is left."""
        end = time.monotonic() + self._timeout
        attempt = 0
        while True:
            try:
                return await call(max(0.0, end - time.monotonic()))
            except (grpc.aio.AioRpcError, StreamBroken, CallFailed) as error:
                failure = _failure(error)
            delay = failure.retry_after
            if delay is None:
                delay = _FIRST_BACKOFF * 2.0**attempt
            again = failure.for_now and attempt < self._retries
            if not again or time.monotonic() + delay >= end:
                raise failure
            attempt += 1
            await asyncio.sleep(delay)


async def ask(stream: SharedStream[AnyRequest, Answer], request: AnyRequest, left: float) -> Answer:
    """One call over a stream. Its timeout of `left` seconds and its status travel in the messages.
    Raises CallFailed, StreamBroken."""
    request.options.timeout.FromNanoseconds(int(left * 1e9))
    response = await stream.ask(request)
    if response.served.status.code:
        raise failed(response.served.status)
    return response


def failed(status: pb.Status) -> CallFailed:
    """The failure that a status in a message stands for."""
    delay = _seconds(status.retry_delay) if status.HasField("retry_delay") else None
    return CallFailed(_CODE_NAMES[status.code], status.message, delay)


def _failure(error: grpc.aio.AioRpcError | StreamBroken | CallFailed) -> CallFailed:
    if isinstance(error, CallFailed):
        return error
    if isinstance(error, StreamBroken):
        return CallFailed("UNAVAILABLE", str(error))
    failure = CallFailed(error.code().name, error.details() or "", _retry_after(error))
    failure.__cause__ = error
    return failure


def _retry_after(error: grpc.aio.AioRpcError) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return _seconds(info.retry_delay)
    return None


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
