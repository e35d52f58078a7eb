"""InferTensorContents to arrays, from the bytes of the message: the lists of Python's protobuf are
read element by element, and take eight times the memory."""

import itertools
import math
from collections.abc import AsyncIterator

import numpy as np

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import NUMPY_TYPES, Array
from serving.base.turns import Turns
from serving.server.endpoints.raw_tensors import TEXTS_IN_A_TURN, shaped_texts, wrong_count
from serving.server.rpc.fields import LENGTH_DELIMITED, LONGEST_VARINT, fields

# By datatype, the list that holds its elements and the numpy type of that list. FP16 and BF16 have
# none.
_LISTS = {
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
_MESSAGE = "InferTensorContents"
_FIELDS = pb.InferTensorContents.DESCRIPTOR.fields_by_name
# Bytes of numbers that are decoded in one turn, 0.5 ms. More hold up other calls, fewer cost more
# rounds of the event loop.
_TURN_BYTES = 16 << 10
# Fields that may lie between the lists of a tensor: other lists, which are passed over.
_MAX_FIELDS = 64
# Bytes of contents that protobuf rewrites, where a list has a field for each number. Senders pack
# them into one.
_REWRITTEN_BYTES = 16 << 10


async def from_contents(
    name: str, datatype: str, dims: tuple[int, ...], contents: memoryview, turns: Turns
) -> Array:
    """The tensor in a serialised InferTensorContents; floats are a view of it.

    Raises InvalidInput, naming the tensor, for a type that has no list, for another number of
    elements, and for one that does not fit.
    """
    if datatype not in _LISTS:
        raise InvalidInput(f"input {quoted(name)}: {datatype} can only be sent raw")
    listed, dtype = _LISTS[datatype]
    number = _FIELDS[listed].number
    if datatype == "BYTES":
        return await _texts(name, dims, contents, number, turns)
    packed = _packed(name, contents, number)
    if dtype in (np.float32, np.float64):
        if len(packed) % np.dtype(dtype).itemsize:
            raise InvalidInput(f"input {quoted(name)}: {listed} ends in the middle of an element")
        found = np.frombuffer(packed, dtype)
    else:
        found = await _integers(name, datatype, dims, packed, dtype, turns)
    if found.size != math.prod(dims):
        raise wrong_count(name, datatype, dims, found.size, f" in {listed}")
    return found.reshape(dims)


async def _texts(
    name: str, dims: tuple[int, ...], contents: memoryview, number: int, turns: Turns
) -> Array:
    count = math.prod(dims)
    elements: list[bytes] = []
    tag = number << 3 | LENGTH_DELIMITED
    for field in fields(contents, _MESSAGE, count + _MAX_FIELDS):
        if field.tag != tag:
            continue
        if len(elements) == count:
            raise wrong_count(name, "BYTES", dims, "more")
        elements.append(bytes(contents[field.begin : field.end]))
        if len(elements) % TEXTS_IN_A_TURN == 0:
            await turns.next()
    return shaped_texts(name, elements, dims)


def _packed(name: str, contents: memoryview, number: int) -> memoryview:
    """The bytes of a list of numbers. protobuf may cut a list into several fields, and may even
    write a field for each number."""
    parts: list[memoryview] = []
    end = 0
    for field in itertools.islice(fields(contents, _MESSAGE, _MAX_FIELDS + 1), _MAX_FIELDS):
        if field.tag >> 3 == number:
            if field.tag & 7 != LENGTH_DELIMITED:
                break
            parts.append(contents[field.begin : field.end])
        end = field.end
    if end < len(contents):
        if len(contents) > _REWRITTEN_BYTES:
            raise InvalidInput(
                f"input {quoted(name)}: expected the elements of a list in one field (packed)"
            )
        message = pb.InferTensorContents.FromString(bytes(contents))
        message.DiscardUnknownFields()
        return _packed(name, memoryview(message.SerializeToString()), number)
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


async def _integers(
    name: str,
    datatype: str,
    dims: tuple[int, ...],
    packed: memoryview,
    dtype: type[np.generic],
    turns: Turns,
) -> Array:
    """The integers of a packed list, in the type of the tensor."""
    count, listed = math.prod(dims), _LISTS[datatype][0]
    found = np.empty(min(count, len(packed)), NUMPY_TYPES[datatype])
    filled = 0
    async for values in _varints(np.frombuffer(packed, np.uint8), turns):
        wide = values != 0 if dtype is np.bool_ else values.astype(dtype)
        if filled + wide.size > count:
            raise wrong_count(name, datatype, dims, "more", f" in {listed}")
        part = found[filled : filled + wide.size]
        part[:] = wide
        if not np.array_equal(part, wide):
            raise InvalidInput(f"input {quoted(name)}: an element does not fit {datatype}")
        filled += wide.size
    return found[:filled]


async def _varints(octets: Array, turns: Turns) -> AsyncIterator[Array]:
    """The numbers of packed varints, uint64 [n], in slices. Each has seven bits a byte, the lowest
    first; the last byte has the eighth bit clear."""
    position = 0
    while position < octets.size:
        if position:
            await turns.next()
        part = octets[position : position + _TURN_BYTES]
        ends = np.flatnonzero(part < 0x80)
        if not ends.size:
            raise InvalidInput("not an InferTensorContents: an integer does not end")
        position += int(ends[-1]) + 1
        if ends.size == ends[-1] + 1:
            yield part[: ends.size].astype(np.uint64)
            continue
        starts = np.concatenate(([0], ends[:-1] + 1))
        lengths = ends - starts + 1
        if lengths.max() > LONGEST_VARINT:
            raise InvalidInput("not an InferTensorContents: an integer does not end")
        values = np.zeros(ends.size, np.uint64)
        for step in range(int(lengths.max())):
            longer = np.flatnonzero(lengths > step)
            bits = part[starts[longer] + step].astype(np.uint64) & np.uint64(0x7F)
            values[longer] |= bits << np.uint64(7 * step)
        yield values
