"""Arrays in a piece of memory that two processes see.

Tensors of a fixed shape lie where both sides compute their place. Before others lies a description:
its length in 4 bytes, then JSON. Every text is its length in 4 bytes, then its bytes.
"""

import json
import math
import struct
from collections.abc import Hashable, Mapping, Sequence
from mmap import mmap
from typing import Any, NamedTuple

import numpy as np

from serving.base.tensor import NUMPY_TYPES, Array, TensorSpec
from serving.remote.records import BadRecord

Memory = mmap

# Bytes of a page: gathering rows that begin on pages takes half as long as rows anywhere.
PAGE = 4096
# Bytes on whose multiples arrays begin. Engines want aligned numbers.
_ALIGNED = 64
_LENGTH = struct.Struct("<I")
# Bit of a text's length that marks str, beside bytes.
_IS_TEXT = 1 << 31
_DTYPES = {dtype.str for dtype in NUMPY_TYPES.values()}
# Bytes of an array up to which it is written without numpy, in a tenth of the time where it is
# small: more would keep the GIL for longer than a microsecond.
_SMALL = 16 << 10
# Views that are kept of a piece of memory. More save making some, fewer save memory.
_MOST_VIEWS = 1024
# Arrays of a call, and dimensions of one.
_MOST = 4096
_MOST_DIMENSIONS = 32


class Place(NamedTuple):
    """One array: its bytes begin `offset` bytes into the memory."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    size: int


class Layout(NamedTuple):
    """Where arrays lie in `size` bytes.

    header: the description that comes before them; empty where both sides know the places.
    """

    places: tuple[Place, ...]
    size: int
    header: bytes = b""


def aligned(size: int, to: int = _ALIGNED) -> int:
    """`size`, or the next multiple."""
    return -(-size // to) * to


def fixed_layout(specs: Sequence[TensorSpec], rows: int, *, batches: bool) -> Layout | None:
    """The layout of tensors of `rows` rows; None where a call chooses a shape, or sends texts."""
    places, end = [], 0
    for spec in specs:
        shape = (rows, *spec.shape[1:]) if batches else spec.shape
        if spec.dtype.hasobject or -1 in shape:
            return None
        size = math.prod(shape) * spec.dtype.itemsize
        places.append(Place(spec.name, spec.dtype, shape, end, size))
        end = aligned(end + size)
    return Layout(tuple(places), end)


def layout_of(parts: Sequence[Mapping[str, Array]]) -> Layout:
    """The layout, described, of arrays that come in parts whose rows follow one another."""
    sizes = {}
    for name, first in parts[0].items():
        shape = first.shape
        if len(parts) > 1:
            shape = (sum(len(part[name]) for part in parts), *shape[1:])
        if first.dtype.hasobject:
            size = sum(_text_bytes(part[name]) for part in parts)
        else:
            size = math.prod(shape) * first.dtype.itemsize
        sizes[name] = (first.dtype.str, shape, size)
    text = json.dumps([[name, *described] for name, described in sizes.items()]).encode()
    header = _LENGTH.pack(len(text)) + text
    return _placed([(name, *described) for name, described in sizes.items()], header)


def _placed(described: Sequence[tuple[str, str, tuple[int, ...], int]], header: bytes) -> Layout:
    places, end = [], aligned(len(header))
    for name, kind, shape, size in described:
        places.append(Place(name, np.dtype(kind), shape, end, size))
        end = aligned(end + size)
    return Layout(tuple(places), end, header)


def write(memory: Memory, base: int, layout: Layout, parts: Sequence[Mapping[str, Array]]) -> None:
    """Writes arrays, in parts whose rows follow one another, `base` bytes into the memory."""
    if layout.header:
        memory[base : base + len(layout.header)] = layout.header
    for name, dtype, shape, offset, size in layout.places:
        if dtype.char == "O":
            texts = b"".join(_packed(part[name]) for part in parts)
            memory[base + offset : base + offset + size] = texts
            continue
        at = base + offset
        if size <= _SMALL and len(parts) == 1 and _written(memory, at, size, dtype, parts[0][name]):
            continue
        whole: Array = np.ndarray(shape, dtype, memory, at)
        if len(parts) == 1:
            whole[...] = parts[0][name]
            continue
        begin = 0
        for part in parts:
            array = part[name]
            end = begin + len(array)
            whole[begin:end] = array
            begin = end


def _written(memory: Memory, at: int, size: int, dtype: np.dtype[Any], array: Array) -> bool:
    """Writes the bytes of an array, where they are those that belong there."""
    if array.dtype != dtype or array.nbytes != size:
        return False
    try:
        memory[at : at + size] = array  # type: ignore[call-overload]
    except ValueError:  # it is not contiguous
        return False
    return True


class Views:
    """Arrays in a piece of memory that is used again and again, made once.

    memory: the piece.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._kept: dict[Hashable, Mapping[str, Array]] = {}

    def of(self, key: Hashable, base: int, layout: Layout) -> Mapping[str, Array]:
        """`read` of a layout that is fixed. key: differs where base or layout differs."""
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= _MOST_VIEWS:
                self._kept.clear()
            found = self._kept[key] = read(self._memory, base, layout)
        return found

    def clear(self) -> None:
        """Keeps none, so that the memory can be freed."""
        self._kept.clear()


def read(memory: Memory, base: int, layout: Layout) -> dict[str, Array]:
    """Views of arrays, `base` bytes into the memory; texts are copied. Raises BadRecord."""
    found: dict[str, Array] = {}
    for name, dtype, shape, offset, size in layout.places:
        at = base + offset
        if dtype.char == "O":  # several times as fast as `hasobject`
            found[name] = _texts(bytes(memory[at : at + size]), shape)
        else:
            found[name] = np.ndarray(shape, dtype, memory, at)
    return found


def described_layout(memory: Memory, base: int, size: int) -> Layout:
    """The layout that the description in `size` bytes of memory gives. Raises BadRecord where that
    is none, or where an array would leave those bytes."""
    length = _LENGTH.unpack_from(memory, base)[0] if size >= _LENGTH.size else size
    end = _LENGTH.size + length
    if end > size:
        raise BadRecord(f"a description of {length} bytes in {size}")
    header = bytes(memory[base : base + end])
    try:
        described = [_described(*entry) for entry in json.loads(header[_LENGTH.size :])]
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRecord(f"no description of arrays: {error}") from error
    if len(described) > _MOST or len({name for name, *_ in described}) < len(described):
        raise BadRecord("arrays of one name")
    layout = _placed(described, header)
    if layout.size > size:
        raise BadRecord(f"arrays of {layout.size} bytes in {size}")
    return layout


def _described(
    name: object, kind: object, shape: object, size: object
) -> tuple[str, str, tuple[int, ...], int]:
    """One entry of a description. Raises ValueError."""
    if not isinstance(name, str) or kind not in _DTYPES or not isinstance(shape, list):
        raise ValueError(f"an array of type {kind!r:.40}")
    if len(shape) > _MOST_DIMENSIONS or any(type(d) is not int or d < 0 for d in shape):
        raise ValueError(f"a shape of {shape!r:.80}")
    elements, dtype = math.prod(shape), np.dtype(str(kind))
    if type(size) is not int or not 0 <= size < 1 << 32:
        raise ValueError(f"a size of {size!r:.40}")
    if elements * _LENGTH.size > size if dtype.hasobject else elements * dtype.itemsize != size:
        raise ValueError(f"{elements} elements in {size} bytes")
    return name, str(kind), tuple(shape), size


def _encoded(element: object) -> tuple[int, bytes]:
    if isinstance(element, bytes):
        return len(element), element
    data = str(element).encode("utf-8", "surrogateescape")
    return len(data) | _IS_TEXT, data


def _text_bytes(array: Array) -> int:
    return sum(_LENGTH.size + len(_encoded(element)[1]) for element in array.flat)


def _packed(array: Array) -> bytes:
    return b"".join(_LENGTH.pack(length) + data for length, data in map(_encoded, array.flat))


def _texts(data: bytes, shape: tuple[int, ...]) -> Array:
    """Raises BadRecord."""
    array: Array = np.empty(math.prod(shape), np.object_)
    position = 0
    for index in range(len(array)):
        if position + _LENGTH.size > len(data):
            raise BadRecord("texts that are cut short")
        [length] = _LENGTH.unpack_from(data, position)
        begin = position + _LENGTH.size
        position = begin + (length & ~_IS_TEXT)
        if position > len(data):
            raise BadRecord("texts that are cut short")
        element = data[begin:position]
        is_text = length & _IS_TEXT
        array[index] = element.decode("utf-8", "surrogateescape") if is_text else element
    return array.reshape(shape)
