"""Between the protocol's JSON, with its binary extension, and requests of tensors."""

import json
import math
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from serving.base.errors import InvalidInput, RequestTooLarge, quoted
from serving.base.tensor import Array
from serving.models.facts import ModelFacts
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.declared import (
    HAVE_TEXT,
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
    OutputTensor,
    class_count_of,
    place_of,
)
from serving.server.endpoints.raw_tensors import (
    Buffer,
    check_shape,
    of_shape,
    shaped_texts,
    texts_of_shape,
    to_raw,
    wrong_count,
)
from serving.server.endpoints.shared_memory import Place
from serving.server.http.json_text import (
    ELEMENTS_IN_A_TURN,
    LEFT_OUT,
    Span,
    elements,
    filled_in,
    flat,
    kind_of,
    member_object,
    read_document,
    read_numbers,
    to_array,
)

# Length of the JSON part of a body; binary tensors follow it.
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
# Advice in the error about JSON that is too large.
LARGER_THAN_JSON = "--max-json-mib; larger tensors travel as binary data"
# Characters of a call's id, which its answer repeats.
_MAX_ID = 64 << 10


class _Input(NamedTuple):
    """An input tensor as a request declares it.

    where: its place in the document.
    place: it lies there in shared memory.
    size: bytes of it behind the JSON; None where its elements are in `data`.
    data: its elements, or the name of a list that was taken out.
    """

    where: str
    name: str
    datatype: str
    dims: tuple[int, ...]
    place: Place | None
    size: Any
    data: Any


async def decode_request(
    body: bytes,
    json_length: str | None,
    call: InferenceCall,
    facts: ModelFacts,
    server: OpenInference,
    max_json: int,
) -> InferRequest:
    """A body as a request, once its model takes what it declares and the memory for it is held.

    json_length: the header of this meaning, None where it is not given.
    max_json: bytes that its JSON part may have.
    Raises InvalidInput naming the field, the expected and the given, and QueueFull.
    """
    length = _json_length(json_length, len(body))
    if length > max_json:
        raise RequestTooLarge(
            f"body: JSON of {length} bytes, the limit is {max_json} ({LARGER_THAN_JSON})"
        )
    members, lists = await read_document(body[:length], server.turns)
    call.id = _id(members)
    parameters = member_object(members, "parameters")
    binary = bool(parameters.pop("binary_data_output", False))
    check_number("parameters", len(parameters))
    inputs = _declared(members, facts)
    rows = check_inputs(facts, inputs)
    wanted, as_text = _wanted(members, facts, binary)
    check_wanted(facts, wanted)
    answer = expected(facts, rows, wanted, as_text)
    server.accept(call, answer)
    rest = memoryview(body)[length:]
    arrays: dict[str, Array] = {}
    for tensor in inputs.values():
        data, rest = _place_of_elements(tensor, lists, rest)
        arrays[tensor.name] = await _read(tensor, data, body, call, server)
    if rest:
        raise InvalidInput(f"body: {len(rest)} binary bytes are left that belong to no input")
    return InferRequest(call.id, arrays, rows, wanted, parameters, answer, as_text)


def _place_of_elements(
    tensor: _Input, lists: Mapping[str, Span], rest: memoryview
) -> tuple[Any, memoryview]:
    """Where the elements of an input are: its part of the bytes behind the JSON, of which the rest
    is returned too, the list that was taken out, its place in shared memory, or what its member
    `data` is."""
    if tensor.place is not None:
        return tensor.place, rest
    size = tensor.size
    if size is None:
        data = tensor.data
        return lists.get(data, data) if isinstance(data, str) else data, rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidInput(
            f"{tensor.where}.parameters.binary_data_size: expected 0 to {len(rest)} (bytes that "
            f"are left), got {quoted(size)}"
        )
    return rest[:size], rest[size:]


async def _read(
    tensor: _Input, data: Any, body: bytes, call: InferenceCall, server: OpenInference
) -> Array:
    """The elements of an input, from where they are. Raises InvalidInput, QueueFull."""
    where, name, datatype, dims, *_ = tensor
    if isinstance(data, Place):
        data = await server.read_memory(call, data, name, datatype, dims)
    if isinstance(data, bytes | memoryview):
        if datatype != "BYTES":
            return of_shape(name, datatype, dims, data)
        server.hold_elements(call, datatype, dims, len(data))
        return await texts_of_shape(name, dims, data, server.turns)
    if datatype not in HAVE_TEXT:
        raise InvalidInput(f"input {quoted(name)}: {datatype} can only be sent as binary data")
    if isinstance(data, Span) and datatype != "BYTES":
        server.hold_elements(call, datatype, dims, data.end - data.start)
        return await read_numbers(body, data, name, datatype, dims, where, server.turns)
    if isinstance(data, Span):
        raise InvalidInput(f"{where}.data: expected BYTES elements as text, got a list of numbers")
    if not isinstance(data, list):
        raise InvalidInput(f"{where}.data: expected a list, got {kind_of(data)}")
    if datatype == "BYTES":
        texts = flat(data)
        if not all(isinstance(text, str) for text in texts):
            raise InvalidInput(f"{where}.data: expected BYTES elements as text")
        return shaped_texts(name, [text.encode() for text in texts], dims)
    array = to_array(data, datatype, where)
    if array.size != math.prod(dims):
        raise wrong_count(name, datatype, dims, array.size)
    return array.reshape(dims)


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


def _id(members: Mapping[str, Any]) -> str:
    found = members.get("id", "")
    text = str(found) if type(found) is int else found
    if not isinstance(text, str) or len(text) > _MAX_ID:
        raise InvalidInput(
            f"id: expected text of at most {_MAX_ID} characters, got {quoted(found)}"
        )
    return text


def _declared(members: Mapping[str, Any], facts: ModelFacts) -> dict[str, _Input]:
    """The inputs as a document declares them."""
    tensors = _list(members, "inputs")
    check_number("inputs", len(tensors), facts.inputs)
    inputs: dict[str, _Input] = {}
    for index, tensor in enumerate(tensors):
        where = f"inputs[{index}]"
        name, datatype = _text(tensor, "name", where), _text(tensor, "datatype", where)
        shape = tensor.get("shape")
        if not isinstance(shape, list) or any(type(dim) is not int for dim in shape):
            raise InvalidInput(f"{where}.shape: expected a list of integers, got {quoted(shape)}")
        if name in inputs:
            raise InvalidInput(f"input {quoted(name)} is given twice")
        dims = check_shape(name, datatype, shape)
        parameters = member_object(tensor, "parameters", where)
        place, size = place_of(parameters, name), parameters.get("binary_data_size")
        inputs[name] = _Input(where, name, datatype, dims, place, size, tensor.get("data"))
    return inputs


def _wanted(
    members: Mapping[str, Any], facts: ModelFacts, binary: bool
) -> tuple[list[WantedOutput], set[str]]:
    """The outputs that a document asks for, and the names of those that travel as text. `binary`
    says how an output travels that does not say it itself."""
    outputs = _list(members, "outputs")
    check_number("outputs", len(outputs), facts.outputs)
    as_text = {name for name, datatype in facts.output_types.items() if datatype in HAVE_TEXT}
    if not outputs and binary:
        as_text.clear()
    wanted = []
    for index, output in enumerate(outputs):
        where = f"outputs[{index}]"
        name, parameters = _text(output, "name", where), member_object(output, "parameters", where)
        check_number(f"parameters of output {quoted(name)}", len(parameters))
        if parameters.get("binary_data", binary):
            as_text.discard(name)
        wanted.append(
            WantedOutput(
                name,
                class_count=class_count_of(parameters, name),
                place=place_of(parameters, name),
            )
        )
    return wanted, as_text


async def encode_answer(
    answer: InferAnswer, as_text: Container[str], server: OpenInference
) -> tuple[list[Buffer], int | None]:
    """The parts of an answer's body, and the length of the first, its JSON, where binary tensors
    follow it.

    as_text: the outputs that are in the JSON itself.
    Raises InvalidInput for more bytes than a message may have.
    """
    tensors: list[dict[str, Any]] = []
    long: list[OutputTensor] = []
    parts: list[Buffer] = []
    for output in answer.outputs:
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.array.shape),
        }
        tensors.append(tensor)
        if output.place is not None:
            tensor["parameters"] = {
                "shared_memory_region": output.place.region,
                "shared_memory_byte_size": output.place.byte_size,
                "shared_memory_offset": output.place.offset,
            }
        elif output.name not in as_text:
            parts.append(await to_raw(output.array, server.turns))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        elif output.array.size <= ELEMENTS_IN_A_TURN:
            tensor["data"] = elements(output.array.reshape(-1))
        else:
            tensor["data"] = LEFT_OUT
            long.append(output)
    document: dict[str, Any] = {
        "model_name": answer.model,
        "model_version": answer.version,
        "outputs": tensors,
    }
    if answer.id:
        document["id"] = answer.id
    head = json.dumps(document).encode()
    if long:
        head = await filled_in(head, [output.array for output in long], server.turns)
    server.check_answer(len(head) + sum(map(len, parts)))
    return [head, *parts], len(head) if parts else None


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
