"""Whatever bytes come as a ModelInferRequest are a request that protobuf reads alike, or bad
input."""

import asyncio
import math

from google.protobuf.message import DecodeError
from hypothesis import example, given, settings

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import ServingError
from serving.base.tensor import NUMPY_TYPES
from serving.server.endpoints.guard import parsed, parsed_in_turns
from serving.server.endpoints.oip import InferRequest
from serving.server.rpc.codec import Head, decode_request
from serving.server.rpc.request_parts import read_request
from tests.fuzz.changed import changed, check_foreseen
from tests.fuzz.decoding import facts_of, new_call, new_server
from tests.support import valid_requests
from tests.support.mutation import changed_message

MESSAGES = [
    message.SerializeToString()
    for name, message in valid_requests.messages()
    if name.endswith("ModelInfer")
]


SERVER = new_server()


def read(data: bytes) -> tuple[Head, InferRequest]:
    """As the server reads it."""
    request = parsed(read_request, data)
    head = parsed(Head, request.head)
    decoding = decode_request(request, head, new_call(), facts_of(head.model), SERVER)
    return head, asyncio.run(parsed_in_turns(decoding))


def with_dims(*dims: int) -> bytes:
    request = pb.ModelInferRequest(model_name="colours")
    request.inputs.add(name="image", datatype="UINT8", shape=dims)
    request.raw_input_contents.append(b"")
    return request.SerializeToString()


@settings(settings.get_profile("fuzz"))
@given(changed(MESSAGES, changed_message))
@example(valid_requests.raw_request("BYTES", bytes(60_000), 1))
@example(valid_requests.raw_request("BYTES", bytes(60_000), 15_000))
@example(valid_requests.raw_request("BYTES", b"\xff\xff\xff\xff", 1))
@example(with_dims(1 << 62, 4))
@example(with_dims(*[1] * 10_000))
@example(with_dims(-1, 8, 8, 3))
@example(with_dims(0, (1 << 63) - 1))
@example(MESSAGES[0] + b"\x3a\xff\xff\xff\xff\x0f")
@example(MESSAGES[0] + b"\x3a" + b"\x80" * 20)
@example(MESSAGES[0] + b"\xf8\x07\x01" * 10_000)
@example(MESSAGES[0] + b"\x1a\x02\xff\xfe")
@example(b"\x0b" * 10_000)
def test_a_request_is_what_protobuf_reads_or_refused(data: bytes) -> None:
    try:
        head, request = read(data)
    except ServingError as error:
        check_foreseen(error)
        return
    try:
        message = pb.ModelInferRequest.FromString(data)
    except DecodeError as error:
        raise AssertionError("protobuf refuses what we read") from error
    assert (head.model, head.version, request.id) == (
        message.model_name,
        message.model_version,
        message.id,
    )
    assert list(request.inputs) == [tensor.name for tensor in message.inputs]
    assert len(request.wanted) == len(message.outputs)
    raws = list(message.raw_input_contents)
    for tensor, array in zip(message.inputs, request.inputs.values(), strict=True):
        assert array.shape == tuple(tensor.shape)
        assert array.size == math.prod(tensor.shape)
        if tensor.datatype == "BYTES":
            assert all(isinstance(element, bytes) for element in array.reshape(-1))
        else:
            assert array.dtype == NUMPY_TYPES[tensor.datatype]
            assert not raws or array.tobytes() == raws.pop(0)


@settings(settings.get_profile("fuzz"))
@given(changed(MESSAGES, changed_message))
def test_what_protobuf_reads_is_read_or_refused_for_a_reason(data: bytes) -> None:
    try:
        pb.ModelInferRequest.FromString(data)
    except DecodeError:
        return
    try:
        read(data)
    except ServingError as error:
        check_foreseen(error)
