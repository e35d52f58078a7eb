"""Reads the inputs, outputs and weights' places of an ONNX file, without the `onnx` package or a
runtime.

An ONNX file is a protobuf message. Only the fields below are read; weights are skipped over.
"""

import hashlib
import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from serving.base.errors import EngineUnavailable, quoted
from serving.base.files import is_plain_name, open_file, sha256
from serving.base.tensor import TensorSpec
from serving.repository.config_tensors import FileFacts

# Field numbers of onnx.proto3.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL_DATA = 1, 2, 8, 9, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_ELEMENT, _SHAPE = 1, 2
_SHAPE_DIM = 1
_DIM_VALUE = 1

# The messages on the way to tensors: fields of each that hold another, by number. Tensors lie in
# graphs, in their nodes' attributes, which may hold graphs again, and in functions.
_BELOW = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
# Messages inside each other; protobuf itself refuses more.
_MAX_DEPTH = 100
# Fields that are looked at, which takes ten seconds for so many. A network of 10,000 layers has a
# million.
_MAX_FIELDS = 4_000_000
# Dimensions of a tensor. Runtimes take fewer; the product of many would be a number of megabytes.
_MAX_DIMS = 64
# Bytes of a name. Longer ones are no name, and would be read into memory.
_MAX_TEXT = 1 << 16

# onnx.TensorProto.DataType.
_DATATYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES",
    9: "BOOL", 10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip
# Bits of an element in raw data, by the same numbers.
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64,
    15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip


class NotTold(Exception):
    """The file leaves out the shape of a tensor, which a runtime may still infer."""


class _Field(NamedTuple):
    """A field of a message.

    value: its number, for a varint; else 0.
    start, end: the place of its bytes in the file.
    """

    number: int
    value: int
    start: int
    end: int


def read_facts(file: Path) -> FileFacts:
    """Inputs and outputs of an ONNX file.

    Raises EngineUnavailable where it cannot be read or is no ONNX file, NotTold where it leaves out
    the shape of one.
    """
    inputs, outputs, constants = [], [], set()
    with _reading(file) as (reader, whole):
        graphs = (part for part in reader.fields(whole) if part.number == _MODEL_GRAPH)
        for part in (part for graph in graphs for part in reader.fields(graph)):
            if part.number == _GRAPH_INPUT:
                inputs.append(_spec(reader, part))
            elif part.number == _GRAPH_OUTPUT:
                outputs.append(_spec(reader, part))
            elif part.number == _GRAPH_INITIALIZER:
                constants.add(reader.text(part, _TENSOR_NAME))
    # Older files list their weights among the inputs.
    taken = tuple(spec for spec in inputs if spec.name not in constants)
    if not outputs:
        raise EngineUnavailable(f"{file}: is no ONNX file: it has no outputs")
    return FileFacts(taken, tuple(outputs))


def external_files(file: Path) -> dict[str, int]:
    """The files beside an ONNX file that hold its weights: the bytes that it needs of each, by
    name.

    Raises EngineUnavailable where it cannot be read or is no ONNX file, where a name is none of a
    file beside it, and where a tensor is larger than its bytes: a runtime would take memory for it.
    """
    needed: dict[str, int] = {}
    with _reading(file) as (reader, whole):
        for tensor in reader.tensors(whole):
            place = _checked(reader, file, tensor)
            if place is not None:
                name, size = place
                needed[name] = max(needed.get(name, 0), size)
    return dict(sorted(needed.items()))


def content_digest(file: Path) -> str:
    """32 hex digits that identify an ONNX file together with the files that hold its weights.

    Raises EngineUnavailable where one of them cannot be read.
    """
    parts = [file]
    with suppress(EngineUnavailable):  # other files are refused before this, or by the runtime
        parts += [file.parent / name for name in external_files(file)]
    digests = []
    for part in parts:
        try:
            digests.append(sha256(part))
        except OSError as error:
            raise EngineUnavailable(f"{part}: cannot be read: {error.strerror}") from error
    if len(digests) == 1:
        return digests[0][:32]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:32]


@contextmanager
def _reading(file: Path) -> Iterator[tuple["_Reader", _Field]]:
    """The open file, and its whole as a field. Raises EngineUnavailable, also where a message is
    cut off inside the block."""
    try:
        with open_file(file) as stream:
            yield _Reader(stream), _Field(0, 0, 0, os.fstat(stream.fileno()).st_size)
    except OSError as error:
        raise EngineUnavailable(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise EngineUnavailable(f"{file}: is no ONNX file: {error}") from error


class _Reader:
    """Reads fields of one file. Raises ValueError where a message is cut off."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = _MAX_FIELDS

    def fields(self, message: _Field) -> Iterator[_Field]:
        """The fields of a message in their order."""
        position = message.start
        while position < message.end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {_MAX_FIELDS:,} fields")
            self._stream.seek(position)
            key = self._varint()
            number, kind = key >> 3, key & 7
            if kind == 0:
                value = self._varint()
                position = self._stream.tell()
                yield _Field(number, value, position, position)
                continue
            length = {1: 8, 5: 4}.get(kind)
            if length is None:
                if kind != 2:
                    raise ValueError(f"wire type {kind}")
                length = self._varint()
            start = self._stream.tell()
            position = start + length
            if not number or position > message.end:
                raise ValueError("a field ends behind its message")
            yield _Field(number, 0, start, position)

    def tensors(self, message: _Field, kind: str = "model", depth: int = 0) -> Iterator[_Field]:
        """Every tensor of constant values below a message."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} messages lie in each other")
        for part in self.fields(message):
            below = _BELOW[kind].get(part.number)
            if below == "tensor":
                yield part
            elif below is not None:
                yield from self.tensors(part, below, depth + 1)

    def last(self, message: _Field, number: int) -> _Field | None:
        """A field that a message has once. Where a file repeats it, protobuf takes the last."""
        found = None
        for part in self.fields(message):
            found = part if part.number == number else found
        return found

    def text(self, message: _Field, number: int) -> str:
        """A text field; empty where it is left out."""
        part = self.last(message, number)
        return "" if part is None else self.bytes_of(part).decode()

    def bytes_of(self, part: _Field) -> bytes:
        """The bytes of a name or a number."""
        if part.end - part.start > _MAX_TEXT:
            raise ValueError(f"a name of {part.end - part.start:,} bytes")
        self._stream.seek(part.start)
        return self._stream.read(part.end - part.start)

    def packed(self, part: _Field) -> Iterator[int]:
        """The numbers of a packed field."""
        self._stream.seek(part.start)
        while self._stream.tell() < part.end:
            yield self._varint()

    def _varint(self) -> int:
        value = shift = 0
        while shift < 64:
            byte = self._stream.read(1)
            if not byte:
                raise ValueError("the file ends in a number")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
            shift += 7
        raise ValueError("a number is too long")


def _checked(reader: _Reader, file: Path, tensor: _Field) -> tuple[str, int] | None:
    """Name and bytes of the file that holds a tensor's values; None where they lie in this one."""
    dims: list[int] = []
    element = raw = None
    outside: dict[str, set[str]] = {}
    for part in reader.fields(tensor):
        if part.number == _TENSOR_DIMS:
            packed = part.end > part.start
            dims += itertools.islice(reader.packed(part), _MAX_DIMS) if packed else [part.value]
            if len(dims) > _MAX_DIMS:
                raise ValueError(f"a tensor of more than {_MAX_DIMS} dimensions")
        elif part.number == _TENSOR_TYPE:
            element = part.value
        elif part.number == _TENSOR_RAW:
            raw = part.end - part.start
        elif part.number == _TENSOR_EXTERNAL_DATA:
            key = reader.text(part, _ENTRY_KEY)
            outside.setdefault(key, set()).add(reader.text(part, _ENTRY_VALUE))
    elements = math.prod(dims)
    bits = _BITS.get(element or 0)
    size = -(-elements * (bits or 1) // 8)
    if outside:
        return _place(file, outside, size)
    # Values outside of raw data take a byte each at least, or one for eight bits of small types.
    stored = tensor.end - tensor.start
    if raw is not None and bits is not None and size != raw:
        raise EngineUnavailable(
            f"{file}: is no ONNX file: a tensor of {size:,} bytes, of which it holds {raw:,}"
        )
    if elements > 8 * stored:
        raise EngineUnavailable(
            f"{file}: is no ONNX file: a tensor of {elements:,} elements in {stored:,} bytes"
        )
    return None


def _place(file: Path, outside: dict[str, set[str]], size: int) -> tuple[str, int]:
    names = outside.get("location", set())
    if len(names) != 1 or not all(map(is_plain_name, names)):
        raise EngineUnavailable(
            f"{file}: weights in another file: expected its plain name, a file beside this one, "
            f"got {quoted(sorted(names))}"
        )
    numbers = [text for key in ("offset", "length") for text in outside.get(key, ())]
    if any(not text.isdecimal() or len(text) > 19 for text in numbers):
        raise EngineUnavailable(
            f"{file}: weights in another file: expected offset and length in bytes, "
            f"got {quoted(numbers)}"
        )
    offset = max(map(int, outside.get("offset", ("0",))))
    return names.pop(), offset + max(size, *map(int, outside.get("length", ("0",))))


def _spec(reader: _Reader, value: _Field) -> TensorSpec:
    name = reader.text(value, _VALUE_NAME)
    kind = reader.last(value, _VALUE_TYPE)
    tensor = kind and reader.last(kind, _TYPE_TENSOR)
    element = tensor and reader.last(tensor, _ELEMENT)
    shape = tensor and reader.last(tensor, _SHAPE)
    if not element or not shape or element.value not in _DATATYPES:
        raise NotTold(name)
    dims = []
    for dim in reader.fields(shape):
        size = reader.last(dim, _DIM_VALUE) if dim.number == _SHAPE_DIM else None
        dims.append(size.value if size is not None and 0 < size.value < 1 << 63 else -1)
    return TensorSpec(name, _DATATYPES[element.value], tuple(dims))
