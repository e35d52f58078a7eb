"""One call: its tries and its failures."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from protos.gen import vision_pb2 as pb

Response = TypeVar("Response")

# Codes of calls that were refused for the moment.
_RETRIED = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
# gRPC's words for a message over a limit, which is RESOURCE_EXHAUSTED and stays so.
_TOO_LARGE = "message larger than max"
# Seconds before the second try where the server names no delay; each further one doubles. Shorter
# answers sooner, longer spares a busy server.
_FIRST_BACKOFF = 0.05
# Seconds between two looks for the fault that keeps calls from the servers; each connects to them.
_FAULT_SECONDS = 1.0
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
        too_large = self.code == "RESOURCE_EXHAUSTED" and _TOO_LARGE in self.message
        return self.code in _RETRIED and not too_large


class Tries:
    """Tries calls again that were refused for the moment.

    timeout: seconds of a call, all of its tries included.
    retries: tries after the first.
    fault: why the connections as such do not come about; empty where they do, or it is not known.
    """

    def __init__(self, timeout: float, retries: int, fault: Callable[[], str] = lambda: "") -> None:
        self._timeout = timeout
        self._retries = retries
        self._fault = fault
        # Some call was answered; the fault may be asked for again from then on, monotonic seconds.
        self._connected = False
        self._ask_again = 0.0
        self._closed = False

    async def run(self, call: Callable[[float], Awaitable[Response]]) -> Response:
        """The answer of `call`, which gets the seconds that are left. Raises CallFailed once no try
        or no time is left, and for calls that the end of the client cut off."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._timeout
        attempt = 0
        while not self._closed:
            try:
                answer = await call(max(0.0, end - clock()))
                self._connected = True
                return answer
            except (grpc.aio.AioRpcError, CallFailed) as error:
                failure = _failure(error)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # A channel that is closed cancels its calls; nobody has cancelled their callers.
                if not self._closed or task is None or task.cancelling():
                    raise
            if self._closed:
                break
            delay = failure.retry_after
            if delay is None:
                delay = _FIRST_BACKOFF * 2.0**attempt
            again = failure.for_now and attempt < self._retries
            if not again or clock() + delay >= end:
                raise await self._explained(failure)
            attempt += 1
            await asyncio.sleep(delay)
        raise CallFailed("CANCELLED", "the client was closed")

    async def _explained(self, failure: CallFailed) -> CallFailed:
        """The failure, or the fault behind it, which no further try mends."""
        now = asyncio.get_running_loop().time()
        if failure.code != "UNAVAILABLE" or self._connected or now < self._ask_again:
            return failure
        self._ask_again = now + _FAULT_SECONDS
        fault = await asyncio.to_thread(self._fault)
        return CallFailed("FAILED_PRECONDITION", fault) if fault else failure

    def close(self) -> None:
        """Lets no further try begin."""
        self._closed = True


def serialised(
    request: pb.ClassifyRequest | pb.SegmentRequest | pb.EmbedRequest, most: int
) -> bytes:
    """The bytes of a request. Raises CallFailed where they are more than `most`."""
    data = request.SerializeToString()
    if len(data) > most:
        raise CallFailed(
            "INVALID_ARGUMENT",
            f"a message of {len(data)} bytes: the client's max_message_mib allows {most}",
        )
    return data


def failed(status: pb.Status) -> CallFailed:
    """The failure that a status in a message stands for."""
    delay = _seconds(status.retry_delay) if status.HasField("retry_delay") else None
    return CallFailed(_CODE_NAMES.get(status.code, "UNKNOWN"), status.message, delay)


def _failure(error: grpc.aio.AioRpcError | CallFailed) -> CallFailed:
    if isinstance(error, CallFailed):
        return error
    failure = CallFailed(error.code().name, error.details() or "", retry_after(error))
    failure.__cause__ = error
    return failure


def retry_after(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds that the server asked to wait; None where it named none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                for detail in Status.FromString(value).details:
                    info = RetryInfo()
                    if detail.Unpack(info):
                        return _seconds(info.retry_delay)
            except DecodeError:
                return None
    return None


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
