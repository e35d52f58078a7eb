"""The Open Inference Protocol's inference: tensors in, tensors out. Knows no wire."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import Array, datatype_of
from serving.images.postprocess import top_k
from serving.models.servable import ENCODED_INPUT, CallOptions, ModelFacts, Servable
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.front import Call, InferenceCall
from serving.server.endpoints.raw_tensors import to_raw
from serving.server.endpoints.shared_memory import Place, SharedMemory
from serving.server.endpoints.tracing import Tracer

_LARGEST = (1 << 64) - 1

# Gives the bytes of an input in shared memory.
ReadMemory = Callable[[Place], bytes]
Parameters = Mapping[str, bool | int | float | str]


class WantedOutput(NamedTuple):
    """An output that a call asks for: as numbers, or as the best `class_count` classes; in the
    answer, or at a place in shared memory."""

    name: str
    class_count: int = 0
    place: Place | None = None


class InferRequest(NamedTuple):
    """A request of tensors.

    id: the name that its caller gave it.
    inputs: tensors by name, batch dimension included.
    wanted: the outputs asked for; empty for all.
    parameters: plain values by name.
    """

    id: str
    inputs: Mapping[str, Array]
    wanted: Sequence[WantedOutput]
    parameters: Parameters


class OutputTensor(NamedTuple):
    """One output; `place` says that its data lies in shared memory and not here."""

    name: str
    datatype: str
    array: Array
    place: Place | None = None


class InferAnswer(NamedTuple):
    """The answer to a request.

    model, version: they answered.
    id: the request's.
    outputs: in the order in which they were asked for.
    """

    model: str
    version: str
    id: str
    outputs: Sequence[OutputTensor]


class OpenInference:
    """Answers inference requests of both wires.

    memory: the regions that their tensors may lie in.
    admin: decides who may use them.
    max_message: bytes that an input may have there.
    """

    def __init__(
        self, memory: SharedMemory, tracer: Tracer, admin: Admin, max_message: int
    ) -> None:
        self._memory = memory
        self._tracer = tracer
        self._admin = admin
        self._max_message = max_message

    def read_memory(self, call: Call, place: Place) -> bytes:
        """The bytes of an input in shared memory, which the call holds. Raises NotAllowed for a
        caller who may use none, InvalidInput, QueueFull, and then none is read."""
        owner = self._admin.require(call, "memory")
        if place.byte_size > self._max_message:
            raise InvalidInput(
                f"an input in shared memory takes {quoted(place.byte_size)} bytes, the limit is "
                f"{self._max_message} (--max-message-mib)"
            )
        return self._memory.read(owner, place, lambda size: call.hold("message", size))

    async def infer(
        self, call: InferenceCall, model: Servable, request: InferRequest
    ) -> InferAnswer:
        """Runs a request on the model that the call has resolved. Raises ServingError, NotAllowed
        for a caller who may use no shared memory and wants outputs there."""
        facts = model.facts
        owner = ""
        for wanted in request.wanted:
            if wanted.place is not None:
                owner = self._admin.require(call, "memory")
                break
        size = 0
        for array in request.inputs.values():
            size += _size(array)
        call.hold("message", size)
        options = _options(request.parameters, call)
        for wanted in request.wanted:
            if wanted.name not in facts.output_types:
                raise InvalidInput(
                    f"model {facts.name!r} has no output {quoted(wanted.name)}; "
                    f"its outputs are {sorted(facts.output_types)}"
                )
        if ENCODED_INPUT in request.inputs and ENCODED_INPUT not in facts.input_names:
            answer = await model.infer_encoded(_images(facts, request.inputs), options)
        else:
            inputs = request.inputs
            if facts.takes_text:
                inputs = {name: _as_text(name, array) for name, array in inputs.items()}
            answer = await model.infer(inputs, options)
        if request.wanted:
            outputs = [
                _output(facts, asked, answer.outputs[asked.name]) for asked in request.wanted
            ]
            for output in outputs:
                if output.place is not None:
                    self._memory.write(owner, output.place, to_raw(output.array))
        else:
            outputs = [
                OutputTensor(name, datatype, answer.outputs[name])
                for name, datatype in facts.output_types.items()
            ]
        timing = answer.timing
        self._tracer.record(
            facts.name, facts.version, request.id, call.began, timing.queue, timing.infer
        )
        return InferAnswer(facts.name, facts.version, request.id, outputs)


def place_of(parameters: Parameters, name: str) -> Place | None:
    """Where a tensor's parameters say that it lies in shared memory; None where they do not.

    Raises InvalidInput for parameters of the wrong kind.
    """
    region = parameters.get("shared_memory_region")
    if region is None:
        return None
    offset = parameters.get("shared_memory_offset", 0)
    size = parameters.get("shared_memory_byte_size")
    if not isinstance(region, str) or type(offset) is not int or type(size) is not int:
        raise InvalidInput(
            f"tensor {quoted(name)}: expected shared_memory_region as text, "
            "shared_memory_byte_size and shared_memory_offset as integers, "
            f"got {quoted(dict(parameters))}"
        )
    return Place(region, offset, size)


def class_count_of(parameters: Parameters, name: str) -> int:
    """The parameter `classification`; 0 where it is not given. Raises InvalidInput."""
    if "classification" not in parameters:
        return 0
    count = parameters["classification"]
    if type(count) is not int or count < 1:
        raise InvalidInput(
            f"output {quoted(name)}: parameter classification: expected an integer above 0, "
            f"got {quoted(count)}"
        )
    return count


def _options(parameters: Parameters, call: InferenceCall) -> CallOptions:
    """The parameters `priority` and `timeout` (microseconds)."""
    if not parameters:
        return call.options(0, 0.0)
    priority = _whole_number(parameters, "priority")
    return call.options(priority, _whole_number(parameters, "timeout") / 1e6)


def _whole_number(parameters: Parameters, name: str) -> int:
    """A parameter that the protocol has as an unsigned 64-bit number, or as its decimal text."""
    given = parameters.get(name, 0)
    value = given
    if isinstance(given, str) and given.isdecimal() and len(given) <= len(str(_LARGEST)):
        value = int(given)
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise InvalidInput(
            f"parameter {name}: expected an integer from 0 to {_LARGEST}, got {quoted(given)}"
        )
    return value


def _size(array: Array) -> int:
    """The bytes of a tensor's elements."""
    if array.dtype.hasobject:
        return sum(len(element) for element in array.flat)
    return array.nbytes


def _images(facts: ModelFacts, inputs: Mapping[str, Array]) -> list[bytes]:
    """The image files of the input `encoded`, BYTES [n] or [n, 1]."""
    encoded = inputs[ENCODED_INPUT]
    if len(inputs) > 1:
        raise InvalidInput(
            f"input {ENCODED_INPUT!r} takes the place of every other, got {quoted(sorted(inputs))}"
        )
    if encoded.dtype != object or encoded.ndim not in (1, 2) or encoded.size != len(encoded):
        raise InvalidInput(
            f"input {ENCODED_INPUT!r} of model {facts.name!r}: expected BYTES [n] or [n, 1], "
            f"got {encoded.dtype} {list(encoded.shape)}"
        )
    return list(encoded.reshape(-1))


def _as_text(name: str, array: Array) -> Array:
    """Elements of BYTES as engines take them: text. Checked here, since bytes that are none would
    fail in the engine and take their batch with them. Raises InvalidInput."""
    if not array.dtype.hasobject:
        return array
    text = np.empty(array.shape, np.object_)
    for index, element in np.ndenumerate(array):
        try:
            text[index] = element.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"input {quoted(name)}: element {list(index)} is not UTF-8 text: {error}"
            ) from error
    return text


def _output(facts: ModelFacts, wanted: WantedOutput, array: Array) -> OutputTensor:
    if not wanted.class_count:
        return OutputTensor(wanted.name, facts.output_types[wanted.name], array, wanted.place)
    if wanted.place is not None:
        raise InvalidInput(
            f"output {wanted.name!r}: classification cannot be combined with shared memory"
        )
    labels = facts.labels_of(wanted.name)
    found = top_classes(wanted.name, array, wanted.class_count, labels, facts.batches)
    return OutputTensor(wanted.name, "BYTES", found)


def top_classes(name: str, array: Array, count: int, labels: Sequence[str], batched: bool) -> Array:
    """The `count` largest values of each row as "value:index[:label]", largest first; object array
    [rows, count], without the rows where the model does not batch. The output as it is: logits.

    Raises InvalidInput for an output that cannot be ranked.
    """
    if array.dtype.kind not in "iuf" or array.dtype == np.float16:
        raise InvalidInput(f"output {name!r}: {datatype_of(array)} has no classification")
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)
    best = np.array([top_k(row, count) for row in rows.astype(np.float64)])
    found = np.empty(best.shape, np.object_)
    for row, column in np.ndindex(best.shape):
        index = int(best[row, column])
        value = rows[row, index]
        number = f"{value:f}" if array.dtype.kind == "f" else str(value)
        label = f":{labels[index]}" if index < len(labels) else ""
        found[row, column] = f"{number}:{index}{label}".encode()
    return found if batched else found[0]
