"""Between a gRPC call and the front: its deadline and its caller."""

from collections.abc import Iterator
from contextlib import contextmanager

from serving.server.access.caller import API_KEY, AUTHORIZATION, Caller, GetCaller
from serving.server.endpoints.call import Call as FrontCall
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.front import Front
from serving.server.endpoints.guard import CONTROL_BYTES, bounded
from serving.server.rpc.request_parts import check_fields
from serving.server.wire.interface import Call


def inference_call(front: Front, method: str, data: bytes, call: Call) -> InferenceCall:
    """A call that infers, for the request `data`."""
    return front.call(method, caller_of(call), len(data), call.deadline)


@contextmanager
def control_call(
    front: Front, method: str, data: bytes, call: Call, most: float = CONTROL_BYTES
) -> Iterator[FrontCall]:
    """A call that infers nothing, for the request `data`. Raises RequestTooLarge where that has
    more than `most` bytes, InvalidInput where it has more fields than any call."""
    with front.control(method, caller_of(call), len(data)) as opened:
        check_fields(method, bounded(data, most))
        yield opened


def caller_of(call: Call) -> GetCaller:
    """Gives the caller when asked: to find it out costs more than a call can spare."""

    def caller() -> Caller:
        peer = call.peer
        address = None if peer is None else peer.address
        return Caller(
            address,
            ",".join(call.metadata(AUTHORIZATION)),
            call.certificate,
            ",".join(call.metadata(API_KEY)),
            call.metadata,
            call.came,
        )

    return caller
