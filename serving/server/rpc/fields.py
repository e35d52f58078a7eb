"""The fields of serialised protobuf messages, for those that are read or written without Python's
protobuf (https://protobuf.dev/programming-guides/encoding/)."""

from collections.abc import Iterator
from typing import NamedTuple

from serving.base.errors import InvalidInput

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

# Bytes of a number, of seven bits each, and bits of a length that has five of them.
LONGEST_VARINT = 10
_MAX_SHIFT = 28


class Field(NamedTuple):
    """A field of a message.

    tag: its number and its kind.
    at, end: where it begins and ends.
    begin: where its content begins: behind the tag, and behind the length where it has one.
    """

    tag: int
    at: int
    begin: int
    end: int


def fields(data: memoryview, message: str, most: int) -> Iterator[Field]:
    """The fields of a serialised message, in their order.

    message: its name, for errors.
    Raises InvalidInput for more than `most` fields, for one that does not end, and for a group.
    """
    position = 0
    for _ in range(most):
        if position == len(data):
            return
        field = field_at(data, position, message)
        yield field
        position = field.end
    if position < len(data):
        raise too_many_fields(message, most)


def field_at(data: bytes | memoryview, at: int, message: str) -> Field:
    """The field that begins at a position. Raises InvalidInput as `fields` does."""
    try:
        tag, begin = long_length(data, at)
        kind, end = tag & 7, begin
        if kind == LENGTH_DELIMITED:
            length, begin = long_length(data, begin)
            end = begin + length
        elif kind == VARINT:
            while data[end] > 0x7F and end - begin < LONGEST_VARINT:
                end += 1
            end += 1
            if end - begin > LONGEST_VARINT:
                raise IndexError
        elif kind in (FIXED64, FIXED32):
            end += 8 if kind == FIXED64 else 4
        else:
            raise InvalidInput(f"not a {message}: groups and unknown kinds of fields are not read")
    except IndexError:
        end = len(data) + 1
    if end > len(data):
        raise unfinished(message, len(data))
    return Field(tag, at, begin, end)


def long_length(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """A length of up to five bytes, and where the field begins behind it. Raises IndexError where
    it does not end."""
    length = shift = 0
    while (byte := data[position]) > 0x7F:
        length |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if shift > _MAX_SHIFT:
            raise IndexError
    return length | byte << shift, position + 1


def bytes_field(number: int, size: int) -> bytes:
    """The tag and the length before the `size` bytes of a field."""
    written = bytearray([number << 3 | LENGTH_DELIMITED])
    while size > 0x7F:
        written.append(size & 0x7F | 0x80)
        size >>= 7
    written.append(size)
    return bytes(written)


def too_many_fields(message: str, most: int) -> InvalidInput:
    """The error of a message that has more fields than any call needs."""
    return InvalidInput(f"{message}: expected at most {most} fields")


def unfinished(message: str, size: int) -> InvalidInput:
    """The error of a message of `size` bytes whose last field is longer."""
    return InvalidInput(f"not a {message}: a field does not end within its {size} bytes")
