"""Between a gRPC call and the front: its deadline and its caller."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from serving.server.endpoints.front import Call, Caller, Front, GetCaller, InferenceCall
from serving.server.endpoints.guard import CONTROL_BYTES, bounded
from serving.server.rpc.traffic.connections import peer_of
from serving.server.rpc.traffic.transfers import Context
from serving.server.rpc.wire import check_fields


def inference_call(front: Front, method: str, data: bytes, context: Context) -> InferenceCall:
    """A call that infers, for the request `data`."""
    return front.call(method, caller_of(context), len(data), deadline_of(context))


@contextmanager
def control_call(
    front: Front, method: str, data: bytes, context: Context, most: float = CONTROL_BYTES
) -> Iterator[Call]:
    """A call that infers nothing, for the request `data`. Raises RequestTooLarge where that has
    more than `most` bytes, InvalidInput where it has more fields than any call."""
    with front.control(method, caller_of(context), len(data)) as call:
        check_fields(method, bounded(data, most))
        yield call


def caller_of(context: Context) -> GetCaller:
    """Gives the caller when asked: to find it out costs more than a call can spare."""
    return lambda: Caller(_address(context.peer()), _authorization(context))


def _authorization(context: Context) -> str:
    values = [v for k, v in context.invocation_metadata() or () if k == "authorization"]
    return ",".join(map(str, values))


def _address(text: str) -> str | None:
    peer = peer_of(text)
    return None if peer is None else peer[0]


def deadline_of(context: Context) -> float:
    """Monotonic seconds; inf where the caller set none."""
    remaining = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining
