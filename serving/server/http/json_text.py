"""JSON that strangers send: bounded before it is parsed, and numbers of tensors in slices.

Python's parser holds the event loop for as long as it runs: 150 ms for 8 MiB of numbers. So the
long lists of numbers are taken out of a document first, and are parsed slice by slice, straight
into arrays. What is left is short.
"""

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.base.errors import InvalidInput, quoted
from serving.base.tensor import NUMPY_TYPES, Array
from serving.base.turns import Turns, joined
from serving.server.endpoints.raw_tensors import wrong_count

# Bytes of a slice and of a document that is parsed as it is: 0.5 ms at most. More hold up other
# calls, fewer cost more rounds of the event loop.
_SLICE_BYTES = 16 << 10
# Bytes of a document without its lists of numbers, and signs in it that begin or end something.
# Parsing that many takes 4 ms.
_TEXT_BYTES = 1 << 20
_SIGNS = b'[]{},:"\\'
_MAX_SIGNS = 1 << 15
# Bytes from which a list of numbers is taken out, and lists in a document. Shorter ones are not
# worth it.
_LIST_BYTES = 1 << 10
_MAX_LISTS = 64
_MAX_DEPTH = 64
# Elements of an answer that are written in one turn, 0.7 ms.
ELEMENTS_IN_A_TURN = 1 << 10
_DATA = b'"data"'
_BLANKS = b" \t\r\n"
_BRACKETS = b"[]"
# Stand for a list that was taken out, and for one that is left out; no caller can guess them.
_TAKEN_OUT = secrets.token_hex(16)
LEFT_OUT = secrets.token_hex(16)
# Every byte by its part in a list of numbers: brackets, commas, blanks, and n for the others.
_PARTS = bytes(
    byte if byte in b"[]," else 0x20 if byte in _BLANKS else ord("n") for byte in range(256)
)
_NO_STRUCTURE = bytes(byte for byte in range(256) if byte not in b"[],")
# The numbers that JSON does not have, as Python, Triton and NumPy write them. Known by identity:
# a number that is too large, as 1e999, becomes another object of the same value.
_CONSTANTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_LARGEST = {name: float(np.finfo(NUMPY_TYPES[name]).max) for name in ("FP32", "FP64")}


_KINDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    type(None): "nothing",
}


class Span(NamedTuple):
    """A list of numbers in a body: it begins at `start` and ends before `end`."""

    start: int
    end: int


class Document(NamedTuple):
    """A JSON object. A list that was taken out of it has left its name there."""

    members: dict[str, Any]
    lists: Mapping[str, Span]


def _all_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(key for key in members if [name for name, _ in pairs].count(key) > 1)
        raise InvalidInput(f"body: member {quoted(twice)} is given twice")
    return members


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = _all_members(pairs)
    if None in members.values():
        return {key: value for key, value in members.items() if value is not None}
    return members


_WITH_NULLS = json.JSONDecoder(
    object_pairs_hook=_all_members, parse_constant=_CONSTANTS.__getitem__
)
_WITHOUT_NULLS = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_CONSTANTS.__getitem__)


def parse_object(data: bytes, *, nulls: bool = False, limit: int = _TEXT_BYTES) -> dict[str, Any]:
    """A JSON object of up to `limit` bytes; an empty body is an empty one. Without `nulls`, a
    member that is null is absent. Raises InvalidInput."""
    _check_text(data, limit)
    return _parse(data, _WITH_NULLS if nulls else _WITHOUT_NULLS)


def kind_of(value: Any) -> str:
    """What JSON calls a value."""
    return _KINDS.get(type(value), "a number")


def member_object(document: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any]:
    """A member that is an object, empty where it is absent; `where` is the place of `document`.
    Raises InvalidInput."""
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise InvalidInput(f"{where + '.' if where else ''}{key}: expected an object")
    return dict(value)


async def read_document(data: bytes, turns: Turns) -> Document:
    """A JSON object of any size, as `parse_object` reads it. Raises InvalidInput."""
    if len(data) <= _SLICE_BYTES:
        return Document(_parse(data, _WITHOUT_NULLS), {})
    await turns.next()
    rest, lists = _without_lists(data)
    _check_text(rest, _TEXT_BYTES)
    await turns.next()
    return Document(_parse(rest, _WITHOUT_NULLS), lists)


def _check_text(data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise _too_much(len(data), 0, limit)
    if len(data) > _MAX_SIGNS:
        signs = len(data) - len(data.translate(None, _SIGNS))
        if signs > _MAX_SIGNS:
            raise _too_much(len(data), signs, limit)


def _too_much(size: int, signs: int, limit: int) -> InvalidInput:
    found = f"{signs} signs, expected at most {_MAX_SIGNS}" if signs else f"{size} bytes"
    return InvalidInput(
        f"body: JSON of {found}, where at most {limit} bytes are read beside the numbers of "
        "tensors: larger tensors travel as binary data"
    )


def _parse(data: bytes, decoder: json.JSONDecoder) -> dict[str, Any]:
    if not data.strip():
        return {}
    try:
        text = str(data, "utf-8")
        document = decoder.decode(text)
        if "\\u" in text:
            # An escape may be one half of a character, which no text can hold.
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"body is not valid JSON: {quoted(str(error))}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"body: expected a JSON object, got {kind_of(document)}")
    return document


def _without_lists(data: bytes) -> tuple[bytes, dict[str, Span]]:
    """A document whose long lists of numbers are taken out of its members `data`. Whether they are
    lists is found out when they are read. Raises InvalidInput where too much is left."""
    kept: list[bytes] = []
    lists: dict[str, Span] = {}
    left = len(data)
    position = look = 0
    for _ in range(_MAX_LISTS):
        found = data.find(_DATA, look, look + _TEXT_BYTES)
        if found < 0:
            break
        look = found + len(_DATA)
        span = _list_after(data, look)
        if span is not None:
            name = f"{_TAKEN_OUT}:{len(lists)}"
            lists[name] = span
            kept += (data[position : span.start], f'"{name}"'.encode())
            left -= span.end - span.start
            position = look = span.end
    if left > _TEXT_BYTES:
        raise _too_much(left, 0, _TEXT_BYTES)
    return b"".join((*kept, data[position:])), lists


def _list_after(data: bytes, position: int) -> Span | None:
    """The long list of numbers that is the value of the member whose name ends at `position`."""
    start = data.find(b"[", position, position + _LIST_BYTES)
    if start < 0 or data[position:start].strip(_BLANKS) != b":":
        return None
    # No string lies within a list of numbers, and no object does.
    end = data.find(b'"', start)
    end = len(data) if end < 0 else end
    brace = data.find(b"}", start, end)
    end = data.rfind(b"]", start, end if brace < 0 else brace) + 1
    return Span(start, end) if end - start >= _LIST_BYTES else None


def to_array(data: list[Any], datatype: str, where: str) -> Array:
    """Elements as the parser gave them, flat or nested. Raises InvalidInput for one that is no
    number, or that the datatype does not hold."""
    dtype = NUMPY_TYPES[datatype]
    try:
        wide = np.array(data)
        if wide.dtype.kind not in "biuf":
            raise _does_not_fit(datatype, where)
        if dtype.kind == "f":
            if wide.dtype.kind != "f" or np.abs(wide).max(initial=0) <= _LARGEST[datatype]:
                return wide.astype(dtype)
            return _with_constants(data, wide, datatype, where)
        if dtype == np.uint64 and wide.dtype == np.float64:
            # Below and above 2**63 together: numpy finds no integer type for both by itself.
            integers = all(type(element) is int for element in flat(data))
            wide = np.array(data, dtype) if integers else wide
        with np.errstate(invalid="ignore"):
            array = wide.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(
            f"{where}.data: not {datatype} elements: {quoted(str(error))}"
        ) from error
    if not np.array_equal(wide, array):
        raise _does_not_fit(datatype, where)
    return array


def _with_constants(data: list[Any], wide: Array, datatype: str, where: str) -> Array:
    """Floats of which one is NaN, infinity, or too large for a short look."""
    with np.errstate(over="ignore"):
        array = wide.astype(NUMPY_TYPES[datatype])
    elements = flat(data)
    constants = [id(value) for value in _CONSTANTS.values()]
    infinite = np.flatnonzero(np.isinf(array.reshape(-1)))
    if any(id(elements[index]) not in constants for index in infinite.tolist()):
        raise _does_not_fit(datatype, where)
    return array


def _does_not_fit(datatype: str, where: str) -> InvalidInput:
    return InvalidInput(f"{where}.data: an element does not fit {datatype}")


def flat(data: list[Any]) -> list[Any]:
    """The elements of nested lists, in order."""
    return [x for item in data for x in (flat(item) if isinstance(item, list) else [item])]


async def read_numbers(
    data: bytes, span: Span, name: str, datatype: str, dims: tuple[int, ...], where: str,
    turns: Turns,
) -> Array:  # fmt: skip
    """The numbers of a list that was taken out, as an array of this shape. Lists within it must be
    of one length each, as NumPy wants them. Raises InvalidInput."""
    count = math.prod(dims)
    if count > span.end - span.start:
        raise wrong_count(name, datatype, dims, "fewer")
    found = np.empty(count, NUMPY_TYPES[datatype])
    structure = bytearray()
    filled, position = 0, span.start
    while position < span.end:
        cut = data.find(b",", position + _SLICE_BYTES, span.end)
        end = span.end if cut < 0 else cut
        if end - position > 2 * _SLICE_BYTES:
            raise InvalidInput(f"{where}.data: an element of {end - position} characters")
        part = data[position:end]
        array = to_array(_numbers(part, where), datatype, where)
        if filled + array.size > count:
            raise wrong_count(name, datatype, dims, "more")
        found[filled : filled + array.size] = array
        filled += array.size
        if structure:
            structure += b","
        structure += part.translate(None, _NO_STRUCTURE)
        position = end + 1
        await turns.next()
    if math.prod(_shape(structure, where)) != filled:
        raise InvalidInput(f"{where}.data: expected lists of numbers, with commas between them")
    if filled != count:
        raise wrong_count(name, datatype, dims, filled)
    return found.reshape(dims)


def _numbers(part: bytes, where: str) -> list[Any]:
    """The numbers of a slice that begins and ends beside a comma of its list."""
    if part.count(b"[") + part.count(b"]"):
        between = b" ".join(part.translate(_PARTS).split())
        for sign in (b"[", b"]", b","):
            between = between.replace(b" " + sign, sign).replace(sign + b" ", sign)
        if any(wrong in between for wrong in (b" ", b"n[", b"]n", b"][")):
            raise InvalidInput(f"{where}.data: expected lists of numbers, with commas between them")
        part = part.translate(None, _BRACKETS + _BLANKS)
    try:
        numbers: list[Any] = _WITH_NULLS.decode(f"[{str(part, 'ascii')}]")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where}.data: not valid JSON: {quoted(str(error))}") from error
    return numbers


def _shape(structure: bytearray, where: str) -> list[int]:
    """The shape of nested lists whose brackets and commas these are. Raises InvalidInput where the
    lists of a level differ."""
    signs = np.frombuffer(structure, np.uint8)
    first = structure[: _MAX_DEPTH + 1]
    depth = len(first) - len(first.lstrip(b"["))
    shape: list[int] = []
    size = 0
    for level in range(1, depth + 1):
        # The first list of this level holds lists of the level below, each of `size` signs.
        begin = depth - level + 1
        inside = signs[begin : structure.find(b"]" * level, begin) + level - 1]
        length, rest = divmod(inside.size + 1, size + 1)
        separated = length == 1 or inside[size : size + 1].tobytes() == b","
        if rest or not separated or not np.array_equal(inside[size + 1 :], inside[: -size - 1]):
            break
        shape.insert(0, length)
        size = inside.size + 2
    if len(shape) != depth or size != len(structure):
        raise InvalidInput(f"{where}.data: expected lists of numbers of one length each")
    return shape


async def filled_in(document: bytes, arrays: Sequence[Array], turns: Turns) -> bytes:
    """A document with the elements of arrays in place of LEFT_OUT, in its order."""
    before, *after = document.split(f'"{LEFT_OUT}"'.encode())
    parts = [before]
    for array, rest in zip(arrays, after, strict=True):
        whole = array.reshape(-1)
        for position in range(0, whole.size, ELEMENTS_IN_A_TURN):
            await turns.next()
            written = json.dumps(elements(whole[position : position + ELEMENTS_IN_A_TURN]))
            parts += (b", " if position else b"[", written[1:-1].encode())
        parts += (b"]", rest)
    return await joined(parts, turns)


def elements(array: Array) -> list[Any]:
    """The elements of a flat array as they stand in JSON; NaN and infinity as Python and Triton
    write them."""
    if not array.dtype.hasobject:
        return list(array.tolist())
    return [e.decode(errors="replace") if isinstance(e, bytes) else str(e) for e in array]
