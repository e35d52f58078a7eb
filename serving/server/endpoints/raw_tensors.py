"""Tensors as raw bytes: little-endian, row-major, as gRPC, REST and shared memory carry them."""

import math
import struct
from collections.abc import Sequence

import numpy as np

from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import NUMPY_TYPES, Array
from serving.base.turns import Turns

Buffer = bytes | memoryview

_LENGTH = struct.Struct("<I")
# Dimensions and elements of an array. numpy holds no more; no message could fill it.
_MAX_DIMS = 64
_MAX_ELEMENTS = 1 << 60
# Elements that a tensor of BYTES may have, in a request and in a ranking. Each is an object of some
# 60 bytes and is handled by Python, at 0.4 us: this many take 4 MiB and 25 ms, in turns.
MAX_TEXTS = 1 << 16
# Elements of BYTES that are handled in one turn: 0.4 ms. More hold up other calls, fewer cost more
# rounds of the event loop.
TEXTS_IN_A_TURN = 1 << 10
# Bytes of an element of BYTES in memory beside its text: an object and its place in an array.
TEXT_BYTES = 64
# Bytes up to which an array is copied: making a view takes as long.
_COPIED_BYTES = 16 << 10


def of_shape(name: str, datatype: str, dims: tuple[int, ...], data: bytes | memoryview) -> Array:
    """The tensor of elements of a fixed size that the bytes hold: a view of `data`, which may begin
    anywhere. Raises InvalidInput, naming the tensor, for a length that does not fit."""
    dtype = NUMPY_TYPES[datatype]
    check_length(name, datatype, dims, len(data))
    return np.ndarray(dims, dtype, data)


def check_length(name: str, datatype: str, dims: tuple[int, ...], given: int) -> None:
    """Raises InvalidInput where elements of a fixed size do not take the bytes that are given."""
    expected = math.prod(dims) * NUMPY_TYPES[datatype].itemsize
    if given != expected:
        raise InvalidInput(
            f"input {quoted(name)}: {datatype} {list(dims)} takes {expected} bytes, "
            f"got {quoted(given)}"
        )


async def texts_of_shape(
    name: str, dims: tuple[int, ...], data: bytes | memoryview, turns: Turns
) -> Array:
    """The tensor of BYTES that the bytes hold, an object array; each element stands behind its
    4-byte length. No more elements are read than `dims` takes.

    Raises InvalidInput, naming the tensor, where there are more or fewer.
    """
    count, end = math.prod(dims), len(data)
    elements: list[bytes] = []
    position = 0
    while position < end and len(elements) < count:
        if len(elements) % TEXTS_IN_A_TURN == TEXTS_IN_A_TURN - 1:
            await turns.next()
        begin = position + _LENGTH.size
        if begin > end:
            raise InvalidInput(f"input {quoted(name)}: BYTES data ends in the middle of a length")
        position = begin + _LENGTH.unpack_from(data, position)[0]
        if position > end:
            raise InvalidInput(f"input {quoted(name)}: BYTES data ends in the middle of an element")
        elements.append(bytes(data[begin:position]))
    if position < end:
        raise wrong_count(name, "BYTES", dims, "more")
    return shaped_texts(name, elements, dims)


async def to_raw(array: Array, turns: Turns) -> Buffer:
    """The bytes of a tensor: a view of a large array whose memory is in that order already. Each
    element of BYTES (an object array) stands behind its 4-byte length."""
    if array.dtype.hasobject:
        parts: list[bytes] = []
        for position, element in enumerate(array.reshape(-1)):
            if position % TEXTS_IN_A_TURN == TEXTS_IN_A_TURN - 1:
                await turns.next()
            encoded = element if isinstance(element, bytes) else str(element).encode()
            parts += (_LENGTH.pack(len(encoded)), encoded)
        return b"".join(parts)
    if array.nbytes <= _COPIED_BYTES:
        return array.tobytes()
    return array.reshape(-1).view(np.uint8).data


def check_shape(name: str, datatype: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as a tuple. Raises InvalidInput, naming the tensor, for an unknown datatype, a
    negative size, or more elements than an array can hold."""
    if datatype not in NUMPY_TYPES:
        raise InvalidInput(
            f"input {quoted(name)}: unknown datatype {quoted(datatype)}; "
            f"expected one of {sorted(NUMPY_TYPES)}"
        )
    if len(shape) > _MAX_DIMS:
        raise InvalidInput(
            f"input {quoted(name)}: shape of {len(shape)} dimensions cannot be held: expected at "
            f"most {_MAX_DIMS}"
        )
    dims = tuple(shape)
    if min(dims, default=0) < 0:
        raise InvalidInput(f"input {quoted(name)}: negative size in {quoted(list(dims))}")
    if math.prod(dim or 1 for dim in dims) > _MAX_ELEMENTS:
        raise InvalidInput(f"input {quoted(name)}: shape {quoted(list(dims))} cannot be held")
    if datatype == "BYTES" and math.prod(dims) > MAX_TEXTS:
        raise InvalidInput(
            f"input {quoted(name)}: BYTES {list(dims)}: expected at most {MAX_TEXTS} elements"
        )
    return dims


def shaped_texts(name: str, elements: Sequence[bytes], dims: tuple[int, ...]) -> Array:
    """Elements of BYTES as an object array of this shape. Raises InvalidInput for another number
    of elements."""
    if len(elements) != math.prod(dims):
        raise wrong_count(name, "BYTES", dims, len(elements))
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(dims)


def wrong_count(
    name: str, datatype: str, dims: tuple[int, ...], got: int | str, where: str = ""
) -> InvalidInput:
    """The error of another number of elements than a shape has; `where` says where they lie."""
    return InvalidInput(
        f"input {quoted(name)}: {datatype} {list(dims)} takes {math.prod(dims)} elements{where}, "
        f"got {got}"
    )
