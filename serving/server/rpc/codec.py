"""Between the protocol's messages and requests of tensors."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import NUMPY_TYPES, Array
from serving.server.endpoints.oip import (
    InferAnswer,
    InferRequest,
    Parameters,
    ReadMemory,
    WantedOutput,
    class_count_of,
    place_of,
)
from serving.server.endpoints.raw_tensors import (
    Buffer,
    check_shape,
    of_shape,
    shaped_bytes,
    to_buffer,
)
from serving.server.endpoints.shared_memory import Place
from serving.server.rpc.wire import LENGTH_DELIMITED, WireRequest, parse_request

InputTensor = pb.ModelInferRequest.InferInputTensor

# Heads of requests and parts of answers that are kept, each in a cache of its own: callers send the
# same again and again. More take more memory, fewer are read anew where many shapes take turns.
_REMEMBERED = 256
# Bytes of a head that is kept: a longer one has tensors in it.
_REMEMBERED_BYTES = 1024

_RESPONSE_ID = pb.ModelInferResponse.DESCRIPTOR.fields_by_name["id"].number
_RAW_OUTPUT = pb.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
_INFER_RESPONSE = pb.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
_FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()

# By datatype, the list of InferTensorContents that holds its elements and the numpy type of that
# list. FP16 and BF16 have none.
_CONTENTS = {
    "BOOL": ("bool_contents", np.bool_),
    "INT8": ("int_contents", np.int32),
    "INT16": ("int_contents", np.int32),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "UINT8": ("uint_contents", np.uint32),
    "UINT16": ("uint_contents", np.uint32),
    "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", np.object_),
}


class _Input(NamedTuple):
    """An input tensor as a request declares it.

    contents: its elements lie in the message itself.
    place: they lie there in shared memory.
    message: the declaration.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    contents: bool
    place: Place | None
    message: InputTensor


class _Tensors(NamedTuple):
    """A request's tensors without their elements.

    inputs: in the order of the message.
    wanted: the outputs asked for; empty for all.
    parameters: plain values by name.
    """

    inputs: tuple[_Input, ...]
    wanted: tuple[WantedOutput, ...]
    parameters: Parameters


class Head:
    """A request without its id and its raw tensors. Its model is known before its tensors are
    looked at, so that a fault in them counts as a failure of that model."""

    def __init__(self, data: bytes) -> None:
        """Raises InvalidInput where the bytes are no message."""
        self._message = parse_request(data)
        self.model = self._message.model_name
        self.version = self._message.model_version

    @functools.cached_property
    def tensors(self) -> _Tensors:
        """Raises InvalidInput naming the tensor, the expected and the given."""
        inputs: dict[str, _Input] = {}
        for tensor in self._message.inputs:
            name, datatype = tensor.name, tensor.datatype
            if name in inputs:
                raise InvalidInput(f"input {quoted(name)} is given twice")
            place = None
            if tensor.parameters:
                place = place_of(decode_parameters(tensor.parameters), name)
            dims = check_shape(name, datatype, tensor.shape)
            contents = tensor.HasField("contents")
            inputs[name] = _Input(name, datatype, dims, contents, place, tensor)
        return _Tensors(
            inputs=tuple(inputs.values()),
            wanted=tuple(_wanted(output) for output in self._message.outputs),
            parameters=decode_parameters(self._message.parameters),
        )


_remembered_head = functools.lru_cache(_REMEMBERED)(Head)


def read_head(request: WireRequest) -> Head:
    """The head of a request. Raises InvalidInput where it is no message."""
    small = len(request.head) <= _REMEMBERED_BYTES
    return _remembered_head(request.head) if small else Head(request.head)


def decode_request(request: WireRequest, head: Head, read_memory: ReadMemory) -> InferRequest:
    """The tensors of a request. Raw ones of fixed-size elements are views of the request.

    Raises InvalidInput naming the tensor, the expected and the given.
    """
    tensors = head.tensors
    inputs = _decode_inputs(tensors.inputs, request.raws, read_memory)
    return InferRequest(request.id, inputs, tensors.wanted, tensors.parameters)


def _decode_inputs(
    inputs: Sequence[_Input], raws: Sequence[memoryview], read_memory: ReadMemory
) -> dict[str, Array]:
    given = len(raws)
    taken = 0
    arrays: dict[str, Array] = {}
    for tensor in inputs:
        name, datatype, dims, contents, place, _ = tensor
        if place is not None:
            arrays[name] = of_shape(name, datatype, dims, read_memory(place))
        elif not given:
            arrays[name] = _from_contents(tensor)
        elif taken == given:
            raise InvalidInput(
                f"raw_input_contents: {given} given, none is left for input {quoted(name)}"
            )
        elif contents:
            raise InvalidInput(
                f"input {quoted(name)} has contents although raw_input_contents are given"
            )
        else:
            arrays[name] = of_shape(name, datatype, dims, raws[taken])
            taken += 1
    if taken < given:
        raise InvalidInput(f"raw_input_contents: {given - taken} more than there are inputs")
    return arrays


def decode_parameters(parameters: Mapping[str, pb.InferParameter]) -> Parameters:
    """Parameters as plain values. Raises InvalidInput for one without a value."""
    return _plain_values("parameter", parameters)


def _from_contents(tensor: _Input) -> Array:
    shape = tensor.dims
    if tensor.datatype not in _CONTENTS:
        raise InvalidInput(f"input {quoted(tensor.name)}: {tensor.datatype} can only be sent raw")
    field, listed = _CONTENTS[tensor.datatype]
    values = getattr(tensor.message.contents, field)
    if tensor.datatype == "BYTES":
        return shaped_bytes(tensor.name, list(values), shape)
    wide: Array = np.array(values, dtype=listed)
    if wide.size != math.prod(shape):
        raise InvalidInput(
            f"input {quoted(tensor.name)}: {tensor.datatype} {quoted(list(shape))} takes "
            f"{math.prod(shape)} elements in {field}, got {wide.size}"
        )
    array = wide.astype(NUMPY_TYPES[tensor.datatype])
    if wide.dtype.kind in "iu" and not np.array_equal(array, wide):
        raise InvalidInput(
            f"input {quoted(tensor.name)}: an element does not fit {tensor.datatype}"
        )
    return array.reshape(shape)


def _wanted(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> WantedOutput:
    if not output.parameters:
        return WantedOutput(output.name)
    parameters = decode_parameters(output.parameters)
    return WantedOutput(
        output.name,
        class_count=class_count_of(parameters, output.name),
        place=place_of(parameters, output.name),
    )


def encode_answer(answer: InferAnswer) -> list[Buffer]:
    """An answer as the parts of a serialised ModelInferResponse, which one copy joins: messages one
    behind the other are one message with the fields of all. Data is in raw_output_contents, one
    entry for each output; clients count them, so what lies in shared memory has an empty one."""
    parts: list[Buffer] = [_served(answer.model, answer.version)]
    if answer.id:
        encoded = answer.id.encode()
        parts += (_bytes_field(_RESPONSE_ID, len(encoded)), encoded)
    parts += [
        _described(output.name, output.datatype, output.array.shape, output.place)
        for output in answer.outputs
    ]
    for output in answer.outputs:
        data = to_buffer(output.array) if output.place is None else b""
        parts += (_bytes_field(_RAW_OUTPUT, len(data)), data)
    return parts


def encode_stream_answer(parts: list[Buffer]) -> bytes:
    """The parts of `encode_answer` as a serialised ModelStreamInferResponse."""
    # Clients that are written for several responses to a request look for the last one.
    size = sum(map(len, parts)) + len(_FINAL)
    return b"".join((_bytes_field(_INFER_RESPONSE, size), _FINAL, *parts))


@functools.lru_cache(_REMEMBERED)
def _served(model: str, version: str) -> bytes:
    return pb.ModelInferResponse(model_name=model, model_version=version).SerializeToString()


@functools.lru_cache(_REMEMBERED)
def _described(name: str, datatype: str, shape: tuple[int, ...], place: Place | None) -> bytes:
    response = pb.ModelInferResponse()
    tensor = response.outputs.add(name=name, datatype=datatype, shape=shape)
    if place is not None:
        tensor.parameters["shared_memory_region"].string_param = place.region
        tensor.parameters["shared_memory_byte_size"].int64_param = place.byte_size
        if place.offset:
            tensor.parameters["shared_memory_offset"].int64_param = place.offset
    return response.SerializeToString()


@functools.lru_cache(_REMEMBERED)
def _bytes_field(number: int, size: int) -> bytes:
    """The tag and the length before the `size` bytes of a field."""
    written = bytearray([number << 3 | LENGTH_DELIMITED])
    while size > 0x7F:
        written.append(size & 0x7F | 0x80)
        size >>= 7
    written.append(size)
    return bytes(written)


def decode_log_settings(
    settings: Mapping[str, pb.LogSettingsRequest.SettingValue],
) -> dict[str, bool | int | str]:
    """Log settings as plain values. Raises InvalidInput for one without a value."""
    return _plain_values("log setting", settings)


def decode_load_parameters(
    parameters: Mapping[str, pb.ModelRepositoryParameter],
) -> dict[str, str | bytes]:
    """Another config or other files for a model. Raises InvalidInput for another kind of value."""
    values = _plain_values("load parameter", parameters)
    for name, value in values.items():
        if not isinstance(value, str | bytes):
            raise InvalidInput(f"load parameter {quoted(name)}: expected text or bytes")
    return values


def _plain_values(what: str, given: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInput(f"{what} {quoted(name)} has no value")
        values[name] = getattr(value, kind)
    return values
