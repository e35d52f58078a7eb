"""Between the protocol's JSON, with its binary extension, and requests of tensors."""

import base64
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import NUMPY_TYPES, Array
from serving.server.endpoints.oip import (
    InferAnswer,
    InferRequest,
    OutputTensor,
    ReadMemory,
    WantedOutput,
    class_count_of,
    place_of,
)
from serving.server.endpoints.raw_tensors import check_shape, from_raw, shaped_bytes, to_raw

# Length of the JSON part of a body; binary tensors follow it.
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"


def decode_request(
    body: bytes, json_length: str | None, read_memory: ReadMemory
) -> tuple[InferRequest, set[str]]:
    """A body as a request, and the names of the outputs wanted in binary ("*" for all).
    json_length: the header of this meaning, None where it is not given.

    Raises InvalidInput naming the field, the expected and the given.
    """
    length = _json_length(json_length, len(body))
    document = parse_object(body[:length])
    parameters = _object(document, "parameters")
    binary: set[str] = {"*"} if parameters.pop("binary_data_output", False) else set()
    wanted = []
    for index, output in enumerate(_list(document, "outputs")):
        where = f"outputs[{index}]"
        name = _text(output, "name", where)
        of_output = _object(output, "parameters", where)
        if of_output.get("binary_data", bool(binary)):
            binary.add(name)
        wanted.append(
            WantedOutput(
                name, class_count=class_count_of(of_output, name), place=place_of(of_output, name)
            )
        )
    request = InferRequest(
        id=str(document.get("id", "")),
        inputs=_inputs(document, memoryview(body)[length:], read_memory),
        wanted=wanted,
        parameters=parameters,
    )
    return request, binary


def _json_length(given: str | None, size: int) -> int:
    """Bytes of a body's JSON part."""
    if given is None:
        return size
    # Python refuses to read numbers of thousands of digits: the length is compared first.
    if not given.isdecimal() or len(given) > len(str(size)) or int(given) > size:
        raise InvalidInput(
            f"{JSON_LENGTH_HEADER}: expected 0 to {size} (the body's length), got {quoted(given)}"
        )
    return int(given)


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object; an empty body is an empty one, and a member that is null is absent. Raises
    InvalidInput."""
    return _parse(data, _without_nulls)


def _parse(data: bytes, hook: Callable[[dict[str, Any]], dict[str, Any]] | None) -> dict[str, Any]:
    if not data.strip():
        return {}
    try:
        document = json.loads(data, object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"body is not valid JSON: {quoted(str(error))}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"body: expected a JSON object, got {type(document).__name__}")
    return document


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value is not None}


def decode_trace_settings(data: bytes) -> dict[str, list[str]]:
    """Trace settings as REST clients send them: text, a list of texts, or null to clear one.
    Raises InvalidInput."""
    settings = {}
    for name, value in _parse(data, None).items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(item, dict | list) or item is None for item in values):
            raise InvalidInput(
                f"trace setting {quoted(name)}: expected text or a list of texts, "
                f"got {quoted(value)}"
            )
        settings[name] = [str(item) for item in values]
    return settings


class Registration(NamedTuple):
    """A region of shared memory to be registered: bytes [offset, offset + byte_size) of `key`."""

    key: str
    offset: int
    byte_size: int


def decode_registration(data: bytes) -> Registration:
    """The body of a register call. Raises InvalidInput."""
    document = parse_object(data)
    key, size = document.get("key"), document.get("byte_size")
    offset = document.get("offset", 0)
    if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
        raise InvalidInput(
            f"expected key as text, offset and byte_size as integers, got {quoted(document)}"
        )
    return Registration(key, offset, size)


def decode_override(data: bytes) -> dict[str, str | bytes]:
    """The parameters of a load call: files travel in base64. Raises InvalidInput."""
    override: dict[str, str | bytes] = {}
    for name, value in _object(parse_object(data), "parameters").items():
        if name == "unload_dependents":
            continue
        if not isinstance(value, str):
            raise InvalidInput(f"load parameter {quoted(name)}: expected text")
        try:
            override[name] = base64.b64decode(value, validate=True) if ":" in name else value
        except ValueError as error:
            raise InvalidInput(f"load parameter {quoted(name)}: not base64: {error}") from error
    return override


def _inputs(
    document: Mapping[str, Any], rest: memoryview, read_memory: ReadMemory
) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    position = 0
    for index, tensor in enumerate(_list(document, "inputs")):
        where = f"inputs[{index}]"
        name, datatype = _text(tensor, "name", where), _text(tensor, "datatype", where)
        shape = tensor.get("shape")
        if not isinstance(shape, list) or any(type(dim) is not int for dim in shape):
            raise InvalidInput(f"{where}.shape: expected a list of integers, got {quoted(shape)}")
        if name in arrays:
            raise InvalidInput(f"input {quoted(name)} is given twice")
        parameters = _object(tensor, "parameters", where)
        place = place_of(parameters, name)
        size = parameters.get("binary_data_size")
        if place is not None:
            arrays[name] = from_raw(name, datatype, shape, read_memory(place))
        elif size is not None:
            if type(size) is not int or not 0 <= size <= len(rest) - position:
                raise InvalidInput(
                    f"{where}.parameters.binary_data_size: expected 0 to "
                    f"{len(rest) - position} (bytes that are left), got {quoted(size)}"
                )
            arrays[name] = from_raw(name, datatype, shape, rest[position : position + size])
            position += size
        else:
            arrays[name] = _from_json(name, datatype, shape, tensor.get("data"), where)
    if position != len(rest):
        raise InvalidInput(
            f"body: {len(rest) - position} binary bytes are left that belong to no input"
        )
    return arrays


def _from_json(name: str, datatype: str, shape: list[int], data: Any, where: str) -> Array:
    """Nested or flat lists of elements."""
    dims = check_shape(name, datatype, shape)
    if not isinstance(data, list):
        raise InvalidInput(f"{where}.data: expected a list, got {type(data).__name__}")
    if datatype == "BYTES":
        return shaped_bytes(name, [str(element).encode() for element in _flat(data)], dims)
    if datatype in ("FP16", "BF16"):
        raise InvalidInput(f"input {quoted(name)}: {datatype} can only be sent as binary data")
    dtype = NUMPY_TYPES[datatype]
    try:
        wide = np.array(data)
        if dtype == np.uint64 and wide.dtype == np.float64:
            # Below and above 2**63 together: numpy finds no integer type for both by itself.
            integers = all(type(element) is int for element in _flat(data))
            wide = np.array(data, dtype) if integers else wide
        array = wide.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(
            f"{where}.data: not {datatype} elements: {quoted(str(error))}"
        ) from error
    if wide.dtype.kind not in "biuf" or (dtype.kind in "iub" and not np.array_equal(wide, array)):
        raise InvalidInput(f"{where}.data: an element does not fit {datatype}")
    if array.size != math.prod(dims):
        raise InvalidInput(
            f"{where}.data: {datatype} {quoted(shape)} takes {math.prod(dims)} elements, "
            f"got {array.size}"
        )
    return array.reshape(dims)


def _flat(data: list[Any]) -> list[Any]:
    return [x for item in data for x in (_flat(item) if isinstance(item, list) else [item])]


def encode_answer(answer: InferAnswer, binary: set[str]) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON part where binary tensors follow."""
    tensors = []
    parts = []
    for output in answer.outputs:
        tensor, data = _encode_output(output, "*" in binary or output.name in binary)
        tensors.append(tensor)
        if data is not None:
            parts.append(data)
    document: dict[str, Any] = {
        "model_name": answer.model,
        "model_version": answer.version,
        "outputs": tensors,
    }
    if answer.id:
        document["id"] = answer.id
    head = json.dumps(document).encode()
    return b"".join([head, *parts]), len(head) if parts else None


def _encode_output(output: OutputTensor, binary: bool) -> tuple[dict[str, Any], bytes | None]:
    tensor: dict[str, Any] = {
        "name": output.name,
        "datatype": output.datatype,
        "shape": list(output.array.shape),
    }
    if output.place is not None:
        tensor["parameters"] = {
            "shared_memory_region": output.place.region,
            "shared_memory_byte_size": output.place.byte_size,
            "shared_memory_offset": output.place.offset,
        }
        return tensor, None
    if binary or output.datatype in ("FP16", "BF16"):
        data = to_raw(output.array)
        tensor["parameters"] = {"binary_data_size": len(data)}
        return tensor, data
    if output.datatype == "BYTES":
        tensor["data"] = [
            e.decode(errors="replace") if isinstance(e, bytes) else str(e)
            for e in output.array.reshape(-1)
        ]
    else:
        tensor["data"] = output.array.reshape(-1).tolist()
    return tensor, None


def _object(document: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise InvalidInput(f"{where + '.' if where else ''}{key}: expected an object")
    return dict(value)


def _list(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key, [])
    if not isinstance(value, list) or any(not isinstance(item, dict) for item in value):
        raise InvalidInput(f"{key}: expected a list of objects")
    return value


def _text(tensor: Mapping[str, Any], key: str, where: str) -> str:
    value = tensor.get(key)
    if not isinstance(value, str):
        raise InvalidInput(f"{where}.{key}: expected text, got {quoted(value)}")
    return value
