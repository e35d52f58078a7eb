"""The Open Inference Protocol's inference: tensors in, tensors out. Knows no wire."""

import math
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import NUMPY_TYPES, Array, datatype_of
from serving.base.turns import Turns
from serving.images.postprocess import top_k
from serving.models.facts import ModelFacts
from serving.models.servable import ENCODED_INPUT, CallOptions, Servable
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.call import Call, InferenceCall
from serving.server.endpoints.declared import UNCOUNTED_BYTES, Expected, WantedOutput, output_bytes
from serving.server.endpoints.raw_tensors import (
    TEXT_BYTES,
    TEXTS_IN_A_TURN,
    check_length,
    to_raw,
)
from serving.server.endpoints.shared_memory import Place, SharedMemory
from serving.server.endpoints.tracing import Tracer

_LARGEST = (1 << 64) - 1

Parameters = Mapping[str, bool | int | float | str]


class InferRequest(NamedTuple):
    """A request of tensors.

    id: the name that its caller gave it.
    inputs: tensors by name, batch dimension included, which the model takes.
    rows: of each of them, or images.
    wanted: the outputs asked for; empty for all.
    parameters: plain values by name.
    expected: the memory of its answer.
    as_text: outputs that travel as text.
    """

    id: str
    inputs: Mapping[str, Array]
    rows: int
    wanted: Sequence[WantedOutput]
    parameters: Parameters
    expected: Expected
    as_text: Container[str] = ()


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
    max_message: bytes that an answer may have, and an input in shared memory.
    turns: of the event loop, for tensors that take long to read or to write.
    """

    def __init__(
        self,
        memory: SharedMemory,
        tracer: Tracer,
        admin: Admin,
        max_message: int,
        turns: Turns,
    ) -> None:
        self.turns = turns
        self._memory = memory
        self._tracer = tracer
        self._admin = admin
        self._max_message = max_message

    def accept(self, call: Call, expected: Expected) -> None:
        """Holds the memory of an answer, where all of it is known. Raises InvalidInput where a
        message cannot have that many bytes, QueueFull where others hold too much."""
        self.check_answer(expected.message)
        size = expected.arrays + expected.message
        if expected.complete and size > UNCOUNTED_BYTES:
            call.hold("answer", size)

    def check_answer(self, size: int) -> None:
        """Raises InvalidInput for an answer of more bytes than a message may have."""
        if size > self._max_message:
            raise InvalidInput(
                f"the answer takes up to {size} bytes, the limit is {self._max_message} "
                "(--max-message-mib): ask for fewer rows, fewer outputs or fewer classes, and over "
                "REST for binary data"
            )

    def hold_elements(self, call: Call, datatype: str, dims: tuple[int, ...], size: int) -> None:
        """Holds the memory of elements that are read out of `size` bytes, and not used where they
        lie. Raises InvalidInput, QueueFull."""
        elements = min(math.prod(dims), size)
        if datatype == "BYTES":
            size += elements * TEXT_BYTES
        else:
            size = elements * NUMPY_TYPES[datatype].itemsize
        if size > UNCOUNTED_BYTES:
            call.hold("batch", size)

    async def read_memory(
        self, call: Call, place: Place, name: str, datatype: str, dims: tuple[int, ...]
    ) -> memoryview:
        """The bytes of an input in shared memory, which the call holds. Raises NotAllowed for a
        caller who may use none, InvalidInput, also where they are not as many as its shape takes,
        and QueueFull, and then none is read."""
        owner = self._admin.require(call, "memory")
        if datatype != "BYTES":
            check_length(name, datatype, dims, place.byte_size)
        if place.byte_size > self._max_message:
            raise InvalidInput(
                f"an input in shared memory takes {quoted(place.byte_size)} bytes, the limit is "
                f"{self._max_message} (--max-message-mib)"
            )
        return await self._memory.read(
            owner, place, lambda size: call.hold("message", size), self.turns
        )

    async def infer(
        self, call: InferenceCall, model: Servable, request: InferRequest
    ) -> InferAnswer:
        """Runs a request on the model that the call has resolved. Raises ServingError, NotAllowed
        for a caller who may use no shared memory and wants outputs there."""
        facts = model.facts
        owner = ""
        if request.wanted and any(wanted.place is not None for wanted in request.wanted):
            owner = self._admin.require(call, "memory")
        options = _options(request.parameters, call)
        if call.visit is not None:
            call.brings(request.rows)
        if ENCODED_INPUT in request.inputs and ENCODED_INPUT not in facts.input_names:
            images = list(request.inputs[ENCODED_INPUT].reshape(-1))
            answer = await model.infer_encoded(images, options)
        else:
            inputs = request.inputs
            if facts.takes_text:
                inputs = {name: await self._as_text(name, inputs[name]) for name in inputs}
            answer = await model.infer(inputs, request.rows, options)
        arrays = answer.outputs
        if not request.expected.complete:
            self.accept(call, _found(facts, request, arrays))
        if request.wanted:
            outputs = [
                await self._output(facts, owner, asked, arrays[asked.name])
                for asked in request.wanted
            ]
        else:
            outputs = [
                OutputTensor(name, datatype, arrays[name])
                for name, datatype in facts.output_types.items()
            ]
        timing = answer.timing
        self._tracer.record(
            facts.name, facts.version, request.id, call.began, timing.queue, timing.infer
        )
        return InferAnswer(facts.name, facts.version, request.id, outputs)

    async def _output(
        self, facts: ModelFacts, owner: str, wanted: WantedOutput, array: Array
    ) -> OutputTensor:
        name, place = wanted.name, wanted.place
        if wanted.class_count:
            count, labels = wanted.class_count, facts.labels_of(name)
            found = await top_classes(name, array, count, labels, facts.batches, self.turns)
            return OutputTensor(name, "BYTES", found)
        if place is not None:
            raw = await to_raw(array, self.turns)
            await self._memory.write(owner, place, raw, self.turns)
        return OutputTensor(name, facts.output_types[name], array, place)

    async def _as_text(self, name: str, array: Array) -> Array:
        """Elements of BYTES as engines take them: text. Checked here, since bytes that are none
        would fail in the engine and take their batch with them. Raises InvalidInput."""
        if not array.dtype.hasobject:
            return array
        text = np.empty(array.size, np.object_)
        for position, element in enumerate(array.reshape(-1)):
            if position % TEXTS_IN_A_TURN == TEXTS_IN_A_TURN - 1:
                await self.turns.next()
            try:
                text[position] = element.decode()
            except UnicodeDecodeError as error:
                index = [int(at) for at in np.unravel_index(position, array.shape)]
                raise InvalidInput(
                    f"input {quoted(name)}: element {index} is not UTF-8 text: {error}"
                ) from error
        return text.reshape(array.shape)


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


def _found(facts: ModelFacts, request: InferRequest, arrays: Mapping[str, Array]) -> Expected:
    """The memory of an answer whose outputs are there."""
    message = 0
    for output in request.wanted or [WantedOutput(name) for name in facts.output_types]:
        array = arrays[output.name]
        rows = len(array) if facts.batches else 1
        message += output_bytes(facts, output, rows, array.size, request.as_text)
    return Expected(sum(array.nbytes for array in arrays.values()), message, complete=True)


async def top_classes(
    name: str, array: Array, count: int, labels: Sequence[str], batched: bool, turns: Turns
) -> Array:
    """The `count` largest values of each row as "value:index[:label]", largest first; object array
    [rows, count], without the rows where the model does not batch. The output as it is: logits.

    Raises InvalidInput for an output that cannot be ranked.
    """
    if array.dtype.kind not in "iuf" or array.dtype == np.float16:
        raise InvalidInput(f"output {name!r}: {datatype_of(array)} has no classification")
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)
    # With `f`, Python writes a number as numpy does: both have the digits of the double.
    kind = "f" if array.dtype.kind == "f" else "d"
    found = np.empty((len(rows), min(count, rows.shape[1])), np.object_)
    for number, row in enumerate(rows):
        if number and array.size > TEXTS_IN_A_TURN:
            await turns.next()
        best = top_k(row.astype(np.float64), count)
        pairs = zip(best.tolist(), row[best].tolist(), strict=True)
        for column, (index, value) in enumerate(pairs):
            if column % TEXTS_IN_A_TURN == TEXTS_IN_A_TURN - 1:
                await turns.next()
            label = f":{labels[index]}" if index < len(labels) else ""
            found[number, column] = f"{value:{kind}}:{index}{label}".encode()
    return found if batched else found[0]
