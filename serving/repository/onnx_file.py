"""Reads the inputs and outputs of an ONNX file, without the `onnx` package or a runtime.

An ONNX file is a protobuf message. Only the fields below are read; weights are skipped over.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from serving.base.digest import sha256
from serving.base.errors import EngineUnavailable
from serving.base.tensor import TensorSpec
from serving.repository.config_tensors import FileFacts

# Field numbers of onnx.proto3.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA = 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIM = 1
_DIM_VALUE = 1

# onnx.TensorProto.DataType.
_DATATYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES",
    9: "BOOL", 10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
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
    with _graph(file) as (stream, graph):
        for part in _fields(stream, graph):
            if part.number == _GRAPH_INPUT:
                inputs.append(_spec(stream, part))
            elif part.number == _GRAPH_OUTPUT:
                outputs.append(_spec(stream, part))
            elif part.number == _GRAPH_INITIALIZER:
                constants.add(_text(stream, part, _TENSOR_NAME))
    # Older files list their weights among the inputs.
    taken = tuple(spec for spec in inputs if spec.name not in constants)
    if not outputs:
        raise EngineUnavailable(f"{file}: is no ONNX file: it has no outputs")
    return FileFacts(taken, tuple(outputs))


def external_files(file: Path) -> list[str]:
    """The files that hold the weights of an ONNX file, as names below its folder, in order.

    Raises EngineUnavailable where it cannot be read or is no ONNX file.
    """
    names = set()
    with _graph(file) as (stream, graph):
        for tensor in _fields(stream, graph):
            if tensor.number != _GRAPH_INITIALIZER:
                continue
            for entry in _fields(stream, tensor):
                if (
                    entry.number == _TENSOR_EXTERNAL_DATA
                    and _text(stream, entry, _ENTRY_KEY) == "location"
                ):
                    names.add(_text(stream, entry, _ENTRY_VALUE))
    return sorted(names)


def content_digest(file: Path) -> str:
    """32 hex digits that identify an ONNX file together with the files that hold its weights.

    Raises EngineUnavailable where one of them cannot be read.
    """
    parts = [file]
    with suppress(EngineUnavailable):  # the runtime refuses other files
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
def _graph(file: Path) -> Iterator[tuple[BinaryIO, _Field]]:
    """The open file, and the field of its graph. Raises EngineUnavailable, also where a message is
    cut off inside the block."""
    try:
        with file.open("rb") as stream:
            whole = _Field(0, 0, 0, file.stat().st_size)
            for part in _fields(stream, whole):
                if part.number == _MODEL_GRAPH and part.end > part.start:
                    yield stream, part
                    return
    except OSError as error:
        raise EngineUnavailable(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EngineUnavailable(f"{file}: is no ONNX file") from error
    raise EngineUnavailable(f"{file}: is no ONNX file: it has no graph")


def _fields(stream: BinaryIO, message: _Field) -> Iterator[_Field]:
    """The fields of a message in their order. Raises ValueError where it is cut off."""
    position = message.start
    while position < message.end:
        stream.seek(position)
        key = _varint(stream)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value = _varint(stream)
            position = stream.tell()
            yield _Field(number, value, position, position)
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            if kind != 2:
                raise ValueError(f"wire type {kind}")
            length = _varint(stream)
        start = stream.tell()
        position = start + length
        if not number or position > message.end:
            raise ValueError("a field ends behind its message")
        yield _Field(number, 0, start, position)


def _varint(stream: BinaryIO) -> int:
    value = shift = 0
    while shift < 64:
        byte = stream.read(1)
        if not byte:
            raise ValueError("the file ends in a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("a number is too long")


def _first(stream: BinaryIO, message: _Field, number: int) -> _Field | None:
    return next((part for part in _fields(stream, message) if part.number == number), None)


def _text(stream: BinaryIO, message: _Field, number: int) -> str:
    part = _first(stream, message, number)
    if part is None:
        return ""
    stream.seek(part.start)
    return stream.read(part.end - part.start).decode()


def _spec(stream: BinaryIO, value: _Field) -> TensorSpec:
    name = _text(stream, value, _VALUE_NAME)
    kind = _first(stream, value, _VALUE_TYPE)
    tensor = kind and _first(stream, kind, _TYPE_TENSOR)
    element = tensor and _first(stream, tensor, _TENSOR_ELEMENT)
    shape = tensor and _first(stream, tensor, _TENSOR_SHAPE)
    if not element or not shape or element.value not in _DATATYPES:
        raise NotTold(name)
    dims = []
    for dim in _fields(stream, shape):
        size = _first(stream, dim, _DIM_VALUE) if dim.number == _SHAPE_DIM else None
        dims.append(size.value if size is not None and 0 < size.value < 1 << 63 else -1)
    return TensorSpec(name, _DATATYPES[element.value], tuple(dims))
