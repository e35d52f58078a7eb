"""Takes a ModelInferRequest apart without copying its tensors. Python's protobuf copies them twice:
into the message and out of it again."""

from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput

LENGTH_DELIMITED = 2

_FIELDS = pb.ModelInferRequest.DESCRIPTOR.fields_by_name
_ID = _FIELDS["id"].number << 3 | LENGTH_DELIMITED
_RAW = _FIELDS["raw_input_contents"].number << 3 | LENGTH_DELIMITED
# Bits: a length has five bytes of seven bits at most.
_MAX_SHIFT = 28


@dataclass(slots=True)
class WireRequest:
    """A request in three parts.

    id: the name that its caller gave it.
    head: the message without its id and its tensors; most callers send the same in every call.
    raws: raw_input_contents, views of the message.
    """

    id: str
    head: bytes
    raws: list[memoryview]


class _Known(NamedTuple):
    """A message without an id and with one raw tensor, its last field.

    start: the message without the tensor's elements.
    head: its WireRequest.head.
    """

    start: bytes
    head: bytes


# By the length of the whole message.
_known: dict[int, _Known] = {}
# Messages that are remembered, and the bytes that one may have before its elements. More cost
# memory; fewer have more callers' messages taken apart.
_KNOWN = 256
_KNOWN_BYTES = 1024


def read_request(data: bytes) -> WireRequest:
    """Takes a serialised ModelInferRequest apart. Raises InvalidInput where it is none.

    Most callers send one message again and again in which only the elements of its one tensor
    differ, and those stand at its end: comparing the bytes before them tells such a message.
    """
    known = _known.get(len(data))
    if known is not None and data.startswith(known.start):
        return WireRequest("", known.head, [memoryview(data)[len(known.start) :]])
    return _take_apart(data)


def _take_apart(data: bytes) -> WireRequest:
    """Walks the fields of a message. Each begins with its number and wire type; a field of bytes
    then has its length (https://protobuf.dev/programming-guides/encoding/)."""
    view, end = memoryview(data), len(data)
    found, raws, kept = "", [], []
    position = begin = 0
    try:
        while position < end:
            tag, length = data[position], data[position + 1]
            if tag & 0x87 != LENGTH_DELIMITED:
                return _read_by_protobuf(data)
            start = position + 2
            if length > 0x7F:
                length, start = _long_length(data, position + 1)
            after = start + length
            if tag in (_RAW, _ID):
                kept.append(data[begin:position])
                begin = after
                if tag == _RAW:
                    raws.append(view[start:after])
                else:
                    found = _text(view[start:after])
            position = after
    except IndexError:
        position = end + 1
    if position > end:
        raise InvalidInput(f"not a ModelInferRequest: a field does not end within its {end} bytes")
    kept.append(data[begin:end])
    head = b"".join(kept)
    if begin == end and len(raws) == 1 and not found:
        _remember(data[: end - len(raws[0])], head, end)
    return WireRequest(found, head, raws)


def _remember(start: bytes, head: bytes, size: int) -> None:
    if len(start) <= _KNOWN_BYTES:
        if len(_known) == _KNOWN:
            _known.clear()
        _known[size] = _Known(start, head)


def _long_length(data: bytes, position: int) -> tuple[int, int]:
    """A length of several bytes, and where the field begins behind it. Raises IndexError where it
    does not end."""
    length = shift = 0
    while (byte := data[position]) > 0x7F:
        length |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if shift > _MAX_SHIFT:
            raise IndexError
    return length | byte << shift, position + 1


def parse_request(data: bytes) -> pb.ModelInferRequest:
    """The message as protobuf reads it. Raises InvalidInput where it is none."""
    try:
        return pb.ModelInferRequest.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"not a ModelInferRequest: {error}") from error


def _read_by_protobuf(data: bytes) -> WireRequest:
    """For a message with fields that the protocol does not have, or has not yet."""
    message = parse_request(data)
    raws = [memoryview(raw) for raw in message.raw_input_contents]
    found = message.id
    message.ClearField("id")
    message.ClearField("raw_input_contents")
    return WireRequest(found, message.SerializeToString(), raws)


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not a ModelInferRequest: its id is not UTF-8: {error}") from error
