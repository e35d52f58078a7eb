"""Tensors as raw bytes: little-endian, row-major, as gRPC, REST and shared memory carry them."""

import math
import struct
from collections.abc import Sequence

import numpy as np

from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import NUMPY_TYPES, Array

Buffer = bytes | memoryview

_LENGTH = struct.Struct("<I")
# Dimensions and elements of an array. numpy holds no more; no message could fill it.
_MAX_DIMS = 64
_MAX_ELEMENTS = 1 << 60
# Bytes up to which an array is copied: making a view takes as long.
_COPIED_BYTES = 16 << 10


def from_raw(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """The tensor that the bytes hold: a view of `data` where elements have a fixed size.

    Raises InvalidInput, naming the tensor, for an unknown datatype, a negative size, or a length
    that does not fit.
    """
    return of_shape(name, datatype, check_shape(name, datatype, shape), data)


def of_shape(name: str, datatype: str, dims: tuple[int, ...], data: bytes | memoryview) -> Array:
    """`from_raw` for a shape from `check_shape`; `data` may begin at any byte. Raises InvalidInput,
    naming the tensor, for a length that does not fit."""
    if datatype == "BYTES":
        return shaped_bytes(name, _split(name, bytes(data)), dims)
    dtype = NUMPY_TYPES[datatype]
    expected = math.prod(dims) * dtype.itemsize
    if len(data) != expected:
        raise InvalidInput(
            f"input {quoted(name)}: {datatype} {list(dims)} takes {expected} bytes, got {len(data)}"
        )
    return np.ndarray(dims, dtype, data)


def to_raw(array: Array) -> bytes:
    """The bytes of a tensor; each element of BYTES (an object array) stands behind its 4-byte
    length."""
    return bytes(to_buffer(array))


def to_buffer(array: Array) -> Buffer:
    """`to_raw`, as a view of a large array whose memory is in that order already."""
    if array.dtype.hasobject:
        encoded = [e if isinstance(e, bytes) else str(e).encode() for e in array.reshape(-1)]
        return b"".join(_LENGTH.pack(len(element)) + element for element in encoded)
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
    dims = tuple(shape)
    if min(dims, default=0) < 0:
        raise InvalidInput(f"input {quoted(name)}: negative size in {quoted(list(dims))}")
    if len(dims) > _MAX_DIMS or math.prod(dim or 1 for dim in dims) > _MAX_ELEMENTS:
        raise InvalidInput(f"input {quoted(name)}: shape {quoted(list(dims))} cannot be held")
    return dims


def shaped_bytes(name: str, elements: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    """Elements of BYTES as an object array of this shape. Raises InvalidInput for another number
    of elements."""
    if len(elements) != math.prod(shape):
        raise InvalidInput(
            f"input {quoted(name)}: BYTES {list(shape)} takes {math.prod(shape)} elements, "
            f"got {len(elements)}"
        )
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)


def _split(name: str, data: bytes) -> list[bytes]:
    elements = []
    position = 0
    while position < len(data):
        begin = position + _LENGTH.size
        if begin > len(data):
            raise InvalidInput(f"input {quoted(name)}: BYTES data ends in the middle of a length")
        position = begin + _LENGTH.unpack_from(data, position)[0]
        if position > len(data):
            raise InvalidInput(f"input {quoted(name)}: BYTES data ends in the middle of an element")
        elements.append(data[begin:position])
    return elements
