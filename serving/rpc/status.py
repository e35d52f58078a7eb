"""From an error of ours to a gRPC status: the only such table."""

from typing import NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from serving import errors

CODES: dict[type[errors.ServingError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ModelNotReady: grpc.StatusCode.UNAVAILABLE,
    errors.WrongTask: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotOffered: grpc.StatusCode.UNIMPLEMENTED,
    errors.NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    errors.QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Shed: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExpired: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.EngineError: grpc.StatusCode.INTERNAL,
    # Asked to load a folder that is broken: trying again changes nothing.
    errors.ModelLoadError: grpc.StatusCode.INVALID_ARGUMENT,
}

_DETAILS_KEY = "grpc-status-details-bin"


def code_of(error: errors.ServingError) -> grpc.StatusCode:
    """The status of an error: its own class's, or that of the nearest class above it."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return grpc.StatusCode.INTERNAL


def retry_delay(error: errors.ServingError) -> Duration | None:
    """When to try again, for errors that know it."""
    if not isinstance(error, errors.QueueFull | errors.Shed):
        return None
    delay = Duration()
    delay.FromNanoseconds(int(error.retry_after * 1e9))
    return delay


async def abort(
    context: "grpc.aio.ServicerContext[object, object]", error: errors.ServingError
) -> NoReturn:
    """Ends a call with the status of an error; the retry delay travels as google.rpc.RetryInfo."""
    code, delay = code_of(error), retry_delay(error)
    if delay is None:
        await context.abort(code, str(error))
    status = Status(code=code.value[0], message=str(error))
    status.details.add().Pack(RetryInfo(retry_delay=delay))
    metadata = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code, str(error), metadata)
