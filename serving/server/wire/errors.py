"""From an error of ours to the end of a gRPC call."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from serving.base.errors import ServingError, without_frames
from serving.server.error_status import message_of, retry_after, status_of
from serving.server.wire.interface import End


def code_of(error: ServingError) -> grpc.StatusCode:
    """The gRPC status code of an error."""
    return grpc.StatusCode[status_of(error).code]


def retry_delay(error: ServingError) -> Duration | None:
    """When to try again, for errors that know it."""
    seconds = retry_after(error)
    if seconds is None:
        return None
    delay = Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return delay


def end_of(error: ServingError) -> End:
    """The status of an error; the retry delay travels as google.rpc.RetryInfo."""
    without_frames(error)
    code, delay, message = code_of(error), retry_delay(error), message_of(error)
    if delay is None:
        return End(code, message)
    status = Status(code=code.value[0], message=message)
    status.details.add().Pack(RetryInfo(retry_delay=delay))
    return End(code, message, status.SerializeToString())
