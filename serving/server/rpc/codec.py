"""Between the protocol's messages and requests of tensors."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import Array
from serving.base.turns import joined
from serving.models.facts import ModelFacts
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.declared import (
    Expected,
    WantedOutput,
    check_inputs,
    check_number,
    check_wanted,
    expected,
)
from serving.server.endpoints.oip import (
    InferAnswer,
    InferRequest,
    OpenInference,
    Parameters,
    class_count_of,
    place_of,
)
from serving.server.endpoints.raw_tensors import (
    Buffer,
    check_shape,
    of_shape,
    texts_of_shape,
    to_raw,
)
from serving.server.endpoints.shared_memory import Place
from serving.server.rpc.contents import from_contents
from serving.server.rpc.fields import bytes_field
from serving.server.rpc.request_parts import RequestParts, parse_request

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
_NO_CONTENTS = memoryview(b"")
_bytes_field = functools.lru_cache(_REMEMBERED)(bytes_field)


class _Input(NamedTuple):
    """An input tensor as a request declares it; `place` says that it lies in shared memory."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    place: Place | None


class _Tensors(NamedTuple):
    """A request's tensors without their elements, which its model takes.

    facts: the model's.
    inputs: in the order of the message.
    rows: of each of them, or images.
    wanted: the outputs asked for; empty for all.
    parameters: plain values by name.
    expected: the memory of the answer.
    """

    facts: ModelFacts
    inputs: tuple[_Input, ...]
    rows: int
    wanted: tuple[WantedOutput, ...]
    parameters: Parameters
    expected: Expected


class Head:
    """A request without its id and its tensors. Its model is known before its tensors are looked
    at, so that a fault in them counts as a failure of that model."""

    def __init__(self, data: bytes) -> None:
        """Raises InvalidInput where the bytes are no message."""
        self._message = parse_request(data)
        if self._message.id or self._message.raw_input_contents:
            raise InvalidInput("not a ModelInferRequest: a field's number is written too long")
        self.model = self._message.model_name
        self.version = self._message.model_version
        self._tensors: _Tensors | None = None

    def tensors(self, facts: ModelFacts) -> _Tensors:
        """What it declares. Raises InvalidInput, naming the tensor, the expected and the given,
        where the model does not take it."""
        if self._tensors is None or self._tensors.facts is not facts:
            self._tensors = self._checked(facts)
        return self._tensors

    def _checked(self, facts: ModelFacts) -> _Tensors:
        message = self._message
        check_number("inputs", len(message.inputs), facts.inputs)
        check_number("outputs", len(message.outputs), facts.outputs)
        inputs: dict[str, _Input] = {}
        for tensor in message.inputs:
            name, datatype = tensor.name, tensor.datatype
            if name in inputs:
                raise InvalidInput(f"input {quoted(name)} is given twice")
            if tensor.HasField("contents"):
                raise InvalidInput("not a ModelInferRequest: a field's number is written too long")
            place = None
            if tensor.parameters:
                place = place_of(decode_parameters(tensor.parameters), name)
            dims = check_shape(name, datatype, tensor.shape)
            inputs[name] = _Input(name, datatype, dims, place)
        rows = check_inputs(facts, inputs)
        wanted = tuple(_wanted(output) for output in message.outputs)
        check_wanted(facts, wanted)
        return _Tensors(
            facts=facts,
            inputs=tuple(inputs.values()),
            rows=rows,
            wanted=wanted,
            parameters=decode_parameters(message.parameters),
            expected=expected(facts, rows, wanted, ()),
        )


_remembered_head = functools.lru_cache(_REMEMBERED)(Head)


def read_head(request: RequestParts) -> Head:
    """The head of a request. Raises InvalidInput where it is no message."""
    small = len(request.head) <= _REMEMBERED_BYTES
    return _remembered_head(request.head) if small else Head(request.head)


async def decode_request(
    request: RequestParts, head: Head, call: InferenceCall, facts: ModelFacts, server: OpenInference
) -> InferRequest:
    """The tensors of a request, once its model takes what it declares and the memory for them and
    for the answer is held. Those of fixed-size elements are views of the request.

    Raises InvalidInput naming the tensor, the expected and the given, and QueueFull.
    """
    _, declared, rows, wanted, parameters, expected = head.tensors(facts)
    server.accept(call, expected)
    raws, contents = request.raws, request.contents
    given, taken = len(raws), 0
    inputs: dict[str, Array] = {}
    for number, (name, datatype, dims, place) in enumerate(declared):
        data: bytes | memoryview
        if place is not None:
            data = await server.read_memory(call, place, name, datatype, dims)
        elif not given:
            listed = contents.get(number, _NO_CONTENTS)
            server.hold_elements(call, datatype, dims, len(listed))
            inputs[name] = await from_contents(name, datatype, dims, listed, server.turns)
            continue
        elif taken == given:
            raise InvalidInput(
                f"raw_input_contents: {given} given, none is left for input {quoted(name)}"
            )
        elif number in contents:
            raise InvalidInput(
                f"input {quoted(name)} has contents although raw_input_contents are given"
            )
        else:
            data = raws[taken]
            taken += 1
        if datatype == "BYTES":
            server.hold_elements(call, datatype, dims, len(data))
            inputs[name] = await texts_of_shape(name, dims, data, server.turns)
        else:
            inputs[name] = of_shape(name, datatype, dims, data)
    if taken < given:
        raise InvalidInput(f"raw_input_contents: {given - taken} more than there are inputs")
    return InferRequest(request.id, inputs, rows, wanted, parameters, expected)


def decode_parameters(parameters: Mapping[str, pb.InferParameter]) -> Parameters:
    """Parameters as plain values. Raises InvalidInput for one without a value."""
    return _plain_values("parameter", parameters)


def _wanted(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> WantedOutput:
    if not output.parameters:
        return WantedOutput(output.name)
    parameters = decode_parameters(output.parameters)
    return WantedOutput(
        output.name,
        class_count=class_count_of(parameters, output.name),
        place=place_of(parameters, output.name),
    )


async def encode_answer(
    answer: InferAnswer, server: OpenInference, *, streamed: bool = False
) -> bytes:
    """An answer as a serialised ModelInferResponse, or in a ModelStreamInferResponse. One copy
    joins its parts: messages one behind the other are one message with the fields of all. Data is
    in raw_output_contents, one entry for each output; clients count them, so what lies in shared
    memory has an empty one.

    Raises InvalidInput for more bytes than a message may have.
    """
    parts: list[Buffer] = [_served(answer.model, answer.version)]
    if answer.id:
        encoded = answer.id.encode()
        parts += (_bytes_field(_RESPONSE_ID, len(encoded)), encoded)
    for name, datatype, array, place in answer.outputs:
        parts.append(_described(name, datatype, array.shape, place))
    for _, _, array, place in answer.outputs:
        data = b"" if place is not None else await to_raw(array, server.turns)
        parts += (_bytes_field(_RAW_OUTPUT, len(data)), data)
    size = sum(map(len, parts))
    server.check_answer(size)
    if streamed:
        # Clients that are written for several responses to a request look for the last one.
        parts = [_bytes_field(_INFER_RESPONSE, size + len(_FINAL)), _FINAL, *parts]
    return await joined(parts, server.turns)


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
    check_number(f"{what}s", len(given))
    values = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInput(f"{what} {quoted(name)} has no value")
        values[name] = getattr(value, kind)
    return values
