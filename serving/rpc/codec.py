"""Between the protocol's messages and a call of tensors."""

import math
from collections.abc import Mapping

import numpy as np

from protos.gen import grpc_service_pb2 as pb
from serving.errors import InvalidInput
from serving.inference import (
    InferAnswer,
    InferCall,
    Parameters,
    WantedOutput,
    class_count_of,
    place_of,
)
from serving.raw import check_shape, from_raw, shaped_bytes, to_raw
from serving.shared_memory import SharedMemory
from serving.tensor import NUMPY_TYPES, Array

InputTensor = pb.ModelInferRequest.InferInputTensor

# Which list of InferTensorContents holds a type's elements, and the type of that list. FP16 and
# BF16 have none.
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


def decode_call(request: pb.ModelInferRequest, memory: SharedMemory) -> InferCall:
    """A request as a call. Raises InvalidInput, which names the tensor."""
    return InferCall(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        inputs=decode_inputs(request, memory),
        wanted=[_wanted(output) for output in request.outputs],
        parameters=decode_parameters(request.parameters) if request.parameters else {},
    )


def decode_parameters(parameters: Mapping[str, pb.InferParameter]) -> Parameters:
    """Parameters as plain values. Raises InvalidInput for one without a value."""
    values: dict[str, bool | int | float | str] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInput(f"parameter {name!r} has no value")
        values[name] = getattr(parameter, kind)
    return values


def decode_inputs(request: pb.ModelInferRequest, memory: SharedMemory) -> dict[str, Array]:
    """The input tensors by name. Raw tensors of fixed-size elements are views of the message, those
    in shared memory views of the region.

    Raises InvalidInput naming the tensor, what was expected and what came.
    """
    # Each look at a field of a message makes a new object, and with bytes a copy of them.
    raws = request.raw_input_contents
    given = len(raws)
    taken = 0
    arrays: dict[str, Array] = {}
    for tensor in request.inputs:
        name = tensor.name
        if name in arrays:
            raise InvalidInput(f"input {name!r} is given twice")
        place = None
        if tensor.parameters:
            place = place_of(decode_parameters(tensor.parameters), name)
        if place is not None:
            arrays[name] = from_raw(name, tensor.datatype, tensor.shape, memory.read(place))
        elif not given:
            arrays[name] = _from_contents(tensor)
        elif taken == given:
            raise InvalidInput(
                f"raw_input_contents: {given} given, none is left for input {name!r}"
            )
        elif tensor.HasField("contents"):
            raise InvalidInput(f"input {name!r} has contents although raw_input_contents are given")
        else:
            arrays[name] = from_raw(name, tensor.datatype, tensor.shape, raws[taken])
            taken += 1
    if taken < given:
        raise InvalidInput(f"raw_input_contents: {given - taken} more than there are inputs")
    return arrays


def _from_contents(tensor: InputTensor) -> Array:
    shape = check_shape(tensor.name, tensor.datatype, tensor.shape)
    if tensor.datatype not in _CONTENTS:
        raise InvalidInput(f"input {tensor.name!r}: {tensor.datatype} can only be sent raw")
    field, listed = _CONTENTS[tensor.datatype]
    values = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES":
        return shaped_bytes(tensor.name, list(values), shape)
    wide: Array = np.array(values, dtype=listed)
    if wide.size != math.prod(shape):
        raise InvalidInput(
            f"input {tensor.name!r}: {tensor.datatype} {list(shape)} takes "
            f"{math.prod(shape)} elements in {field}, got {wide.size}"
        )
    array = wide.astype(NUMPY_TYPES[tensor.datatype])
    if wide.dtype.kind in "iu" and not np.array_equal(array, wide):
        raise InvalidInput(f"input {tensor.name!r}: an element does not fit {tensor.datatype}")
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


def encode_answer(answer: InferAnswer) -> pb.ModelInferResponse:
    """An answer as a message: data in raw_output_contents, one entry for each output; clients count
    them, so what lies in shared memory has an empty one."""
    response = pb.ModelInferResponse(
        model_name=answer.model, model_version=answer.version, id=answer.id
    )
    for output in answer.outputs:
        tensor = response.outputs.add(
            name=output.name, datatype=output.datatype, shape=output.array.shape
        )
        if output.place is None:
            response.raw_output_contents.append(to_raw(output.array))
        else:
            response.raw_output_contents.append(b"")
            tensor.parameters["shared_memory_region"].string_param = output.place.region
            tensor.parameters["shared_memory_byte_size"].int64_param = output.place.byte_size
            if output.place.offset:
                tensor.parameters["shared_memory_offset"].int64_param = output.place.offset
    return response


def decode_log_settings(
    settings: Mapping[str, pb.LogSettingsRequest.SettingValue],
) -> dict[str, bool | int | str]:
    """Log settings as plain values. Raises InvalidInput for one without a value."""
    values: dict[str, bool | int | str] = {}
    for name, value in settings.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidInput(f"log setting {name!r} has no value")
        values[name] = getattr(value, kind)
    return values
