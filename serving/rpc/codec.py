"""Between the protocol's tensors and numpy arrays."""

import math
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from protos.gen import grpc_service_pb2 as pb
from serving.errors import InvalidInput
from serving.tensor import NUMPY_TYPES, Array, datatype_of

InputTensor = pb.ModelInferRequest.InferInputTensor

# Which list of InferTensorContents holds a type's elements. FP16 and BF16 have none.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
# The element type of each list; left to guess, numpy makes floats of large uint64.
_CONTENTS_TYPES = {
    "bool_contents": np.bool_,
    "int_contents": np.int32,
    "int64_contents": np.int64,
    "uint_contents": np.uint32,
    "uint64_contents": np.uint64,
    "fp32_contents": np.float32,
    "fp64_contents": np.float64,
}


def decode_inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    """The input tensors by name. Raw tensors of fixed-size elements are views of the message.

    Raises InvalidInput naming the tensor, what was expected and what came.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"raw_input_contents: expected one for each of {len(request.inputs)} inputs, "
            f"got {len(raw)}"
        )
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise InvalidInput(f"input {tensor.name!r} is given twice")
        if tensor.datatype not in NUMPY_TYPES:
            raise InvalidInput(
                f"input {tensor.name!r}: unknown datatype {tensor.datatype!r}; "
                f"expected one of {sorted(NUMPY_TYPES)}"
            )
        if any(dim < 0 for dim in tensor.shape):
            raise InvalidInput(f"input {tensor.name!r}: negative size in {list(tensor.shape)}")
        if raw and tensor.HasField("contents"):
            raise InvalidInput(
                f"input {tensor.name!r} has contents although raw_input_contents are given"
            )
        try:
            arrays[tensor.name] = _from_raw(tensor, raw[index]) if raw else _from_contents(tensor)
        except ValueError as error:  # Past numpy's limits: 64 dimensions, sizes of 63 bits.
            raise InvalidInput(
                f"input {tensor.name!r}: shape {list(tensor.shape)} cannot be held: {error}"
            ) from error
    return arrays


def _from_raw(tensor: InputTensor, data: bytes) -> Array:
    shape = tuple(tensor.shape)
    if tensor.datatype == "BYTES":
        elements = _split_bytes(tensor.name, data)
        return _shaped_bytes(tensor.name, elements, shape)
    dtype = NUMPY_TYPES[tensor.datatype]
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidInput(
            f"input {tensor.name!r}: {tensor.datatype} {list(shape)} takes {expected} bytes, "
            f"got {len(data)}"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _from_contents(tensor: InputTensor) -> Array:
    shape = tuple(tensor.shape)
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidInput(f"input {tensor.name!r}: {tensor.datatype} can only be sent raw")
    values = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES":
        return _shaped_bytes(tensor.name, list(values), shape)
    if len(values) != math.prod(shape):
        raise InvalidInput(
            f"input {tensor.name!r}: {list(shape)} takes {math.prod(shape)} elements in {field}, "
            f"got {len(values)}"
        )
    wide = np.array(values, dtype=_CONTENTS_TYPES[field])
    dtype = NUMPY_TYPES[tensor.datatype]
    array = wide.astype(dtype)
    if wide.dtype.kind in "iu" and not np.array_equal(array, wide):
        raise InvalidInput(f"input {tensor.name!r}: an element does not fit {tensor.datatype}")
    return array.reshape(shape)


def _split_bytes(name: str, data: bytes) -> list[bytes]:
    elements = []
    position = 0
    while position < len(data):
        end = position + 4
        if end <= len(data):
            end += struct.unpack_from("<I", data, position)[0]
        if end > len(data) or end < position + 4:
            raise InvalidInput(f"input {name!r}: BYTES data ends in the middle of an element")
        elements.append(data[position + 4 : end])
        position = end
    return elements


def _shaped_bytes(name: str, elements: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    if len(elements) != math.prod(shape):
        raise InvalidInput(
            f"input {name!r}: BYTES {list(shape)} takes {math.prod(shape)} elements, "
            f"got {len(elements)}"
        )
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)


def add_output(response: pb.ModelInferResponse, name: str, array: Array, datatype: str) -> None:
    """Appends an output tensor with its data in raw_output_contents."""
    response.outputs.add(name=name, datatype=datatype, shape=array.shape)
    response.raw_output_contents.append(to_raw(array))


def to_raw(array: Array) -> bytes:
    """Row-major little-endian bytes; elements of BYTES each behind their 4-byte length."""
    if array.dtype == np.object_:
        encoded = [e if isinstance(e, bytes) else str(e).encode() for e in array.reshape(-1)]
        return b"".join(struct.pack("<I", len(element)) + element for element in encoded)
    return np.ascontiguousarray(array).tobytes()


def encode_outputs(
    response: pb.ModelInferResponse,
    request: pb.ModelInferRequest,
    outputs: Mapping[str, Array],
    labels: Sequence[str],
    batched: bool,
) -> None:
    """Appends the outputs that a request asks for, all where it names none; with the parameter
    `classification` as "value:index:label" strings instead of numbers.

    Raises InvalidInput for an output that the model does not have, or a bad parameter.
    """
    wanted = {tensor.name: tensor for tensor in request.outputs}
    for name in wanted:
        if name not in outputs:
            raise InvalidInput(
                f"model {request.model_name!r} has no output {name!r}; "
                f"its outputs are {sorted(outputs)}"
            )
    for name in wanted or outputs:
        array = outputs[name]
        count = 0
        if name in wanted and "classification" in wanted[name].parameters:
            count = _class_count(name, wanted[name].parameters["classification"])
        if count:
            add_output(response, name, top_classes(name, array, count, labels, batched), "BYTES")
        else:
            add_output(response, name, array, datatype_of(array))


def _class_count(name: str, parameter: pb.InferParameter) -> int:
    if parameter.WhichOneof("parameter_choice") != "int64_param" or parameter.int64_param < 1:
        raise InvalidInput(f"output {name!r}: parameter classification: expected an int64 above 0")
    return parameter.int64_param


def top_classes(name: str, array: Array, count: int, labels: Sequence[str], batched: bool) -> Array:
    """The `count` largest values of each row as "value:index[:label]", largest first; object array
    [rows, count], without the rows where the model does not batch. The output as it is: logits."""
    if array.dtype.kind not in "iuf" or array.dtype == np.float16:
        raise InvalidInput(f"output {name!r}: {datatype_of(array)} has no classification")
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    found = np.empty(best.shape, np.object_)
    for row, column in np.ndindex(best.shape):
        index = int(best[row, column])
        value = rows[row, index]
        number = f"{value:f}" if array.dtype.kind == "f" else str(value)
        label = f":{labels[index]}" if index < len(labels) else ""
        found[row, column] = f"{number}:{index}{label}".encode()
    return found if batched else found[0]
