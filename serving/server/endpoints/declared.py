"""What a request declares, against the model that it is for: before an element is looked at, and
before memory is taken for one."""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple, Protocol

from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import NUMPY_TYPES, TensorSpec
from serving.models.facts import ModelFacts
from serving.models.servable import ENCODED_INPUT
from serving.server.endpoints.raw_tensors import MAX_TEXTS
from serving.server.endpoints.shared_memory import Place

# Inputs, outputs and parameters that a request may name, and parameters of each tensor, where the
# model does not have more. Reading one takes a microsecond; an error can name the wrong one.
_MAX_NAMED = 64
_RAW_WIDTH = {name: dtype.itemsize for name, dtype in NUMPY_TYPES.items()}
# Characters of the longest number in JSON, with a comma and a blank.
_TEXT_WIDTH = {
    "BOOL": 7, "UINT8": 5, "INT8": 6, "UINT16": 7, "INT16": 8, "UINT32": 12, "INT32": 13,
    "UINT64": 22, "INT64": 22, "FP32": 26, "FP64": 26, "BYTES": 4,
}  # fmt: skip
# The datatypes that can travel in JSON: halves have no text.
HAVE_TEXT = frozenset(_TEXT_WIDTH)
# Bytes of a class in a ranking: a number, an index and a label of some length.
_RANKED_BYTES = 200


# Bytes of a tensor or an answer that the budget leaves out: taking them would cost as much as
# writing them.
UNCOUNTED_BYTES = 16 << 10


class Declared(Protocol):
    """The declaration of an input."""

    @property
    def datatype(self) -> str: ...

    @property
    def dims(self) -> tuple[int, ...]: ...


class WantedOutput(NamedTuple):
    """An output that a call asks for: as numbers, or as the best `class_count` classes; in the
    answer, or at a place in shared memory."""

    name: str
    class_count: int = 0
    place: Place | None = None


class Expected(NamedTuple):
    """The memory that an answer takes, as far as the shapes tell before the work.

    arrays: bytes of the model's outputs.
    message: bytes of the answer on the wire, at most.
    complete: whether they tell it all; otherwise only the outputs themselves do.
    """

    arrays: int
    message: int
    complete: bool


_LITTLE = Expected(0, 0, complete=True)


def check_number(what: str, given: int, declared: Sequence[TensorSpec] = ()) -> None:
    """Raises InvalidInput for more inputs, outputs or parameters than a request needs; `declared`
    are those of the model."""
    most = max(_MAX_NAMED, len(declared))
    if given > most:
        raise InvalidInput(f"{given} {what}: expected at most {most}")


def check_inputs(facts: ModelFacts, inputs: Mapping[str, Declared]) -> int:
    """The rows of a request with these inputs. Raises InvalidInput where the model does not take
    them."""
    if ENCODED_INPUT in inputs and ENCODED_INPUT not in facts.input_names:
        return _encoded_rows(facts, inputs)
    for name in inputs:
        if name not in facts.input_names:
            raise InvalidInput(
                f"model {facts.name!r} has no input {quoted(name)}; "
                f"its inputs are {sorted(facts.input_names)}"
            )
    rows = 1
    for position, spec in enumerate(facts.inputs):
        given = inputs.get(spec.name)
        if given is None:
            raise InvalidInput(
                f"input {spec.name!r} of model {facts.name!r} is missing; "
                f"got {quoted(sorted(inputs))}"
            )
        if given.datatype != spec.datatype or not spec.fits(given.dims):
            raise InvalidInput(
                f"input {spec.name!r} of model {facts.name!r}: expected "
                f"{spec.datatype} {list(spec.shape)}, got {given.datatype} {list(given.dims)}"
            )
        if facts.batches:
            if position and given.dims[0] != rows:
                raise InvalidInput(f"input {spec.name!r} has {given.dims[0]} rows, others {rows}")
            rows = given.dims[0]
    facts.check_rows(rows)
    return rows


def _encoded_rows(facts: ModelFacts, inputs: Mapping[str, Declared]) -> int:
    """The number of image files in the input `encoded`, BYTES [n] or [n, 1]."""
    if len(inputs) > 1:
        raise InvalidInput(
            f"input {ENCODED_INPUT!r} takes the place of every other, got {quoted(sorted(inputs))}"
        )
    datatype, dims = inputs[ENCODED_INPUT].datatype, inputs[ENCODED_INPUT].dims
    if datatype != "BYTES" or len(dims) not in (1, 2) or dims[1:] not in ((), (1,)):
        raise InvalidInput(
            f"input {ENCODED_INPUT!r} of model {facts.name!r}: expected BYTES [n] or [n, 1], "
            f"got {datatype} {list(dims)}"
        )
    facts.check_rows(dims[0])
    return dims[0]


def check_wanted(facts: ModelFacts, wanted: Sequence[WantedOutput]) -> None:
    """Raises InvalidInput for an output that the model does not have, that is named twice, or whose
    ranking would go to shared memory."""
    seen: set[str] = set()
    for output in wanted:
        if output.name not in facts.output_types:
            raise InvalidInput(
                f"model {facts.name!r} has no output {quoted(output.name)}; "
                f"its outputs are {sorted(facts.output_types)}"
            )
        if output.name in seen:
            raise InvalidInput(f"output {output.name!r} is asked for twice")
        if output.class_count and output.place is not None:
            raise InvalidInput(
                f"output {output.name!r}: classification cannot be combined with shared memory"
            )
        seen.add(output.name)


def expected(
    facts: ModelFacts, rows: int, wanted: Sequence[WantedOutput], as_text: Container[str]
) -> Expected:
    """The memory of an answer of `rows`. `as_text`: outputs that travel as text.

    Raises InvalidInput for a ranking of more classes than can be ranked.
    """
    if rows * facts.row_elements_in_all * _RANKED_BYTES <= UNCOUNTED_BYTES:
        return _LITTLE
    elements = {name: rows * (size or 0) for name, size in facts.row_elements.items()}
    arrays = sum(
        elements[name] * NUMPY_TYPES[datatype].itemsize
        for name, datatype in facts.output_types.items()
    )
    asked = wanted or [WantedOutput(name) for name in facts.output_types]
    message = sum(
        output_bytes(facts, output, rows, elements[output.name], as_text) for output in asked
    )
    complete = None not in facts.row_elements.values()
    return Expected(arrays, message, complete)


def output_bytes(
    facts: ModelFacts, wanted: WantedOutput, rows: int, elements: int, as_text: Container[str]
) -> int:
    """The bytes of an output of so many rows and elements on the wire, at most, but for the text of
    BYTES. Raises InvalidInput for a ranking of more classes than can be ranked."""
    if wanted.place is not None:
        return 0
    if wanted.class_count:
        classes = elements // max(1, rows)
        ranked = rows * min(wanted.class_count, classes)
        if max(ranked, classes) > MAX_TEXTS:
            raise InvalidInput(
                f"output {wanted.name!r}: classification of {rows} rows of {classes} values: "
                f"expected at most {MAX_TEXTS} values a row, and as many classes in all"
            )
        return ranked * _RANKED_BYTES
    datatype = facts.output_types[wanted.name]
    width = _TEXT_WIDTH if wanted.name in as_text else _RAW_WIDTH
    return elements * width[datatype]
