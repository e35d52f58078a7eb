"""A ModelInferRequest taken apart without a copy of its tensors. Python's protobuf makes two, into
the message and out of it again."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from protos.gen import grpc_service_pb2 as pb
from serving.errors import InvalidInput

LENGTH_DELIMITED = 2

_FIELDS = pb.ModelInferRequest.DESCRIPTOR.fields_by_name
_ID = _FIELDS["id"].number << 3 | LENGTH_DELIMITED
_RAW = _FIELDS["raw_input_contents"].number << 3 | LENGTH_DELIMITED
_CUT_OFF = "not a ModelInferRequest: a field does not end within its {} bytes"


@dataclass(slots=True)
class WireRequest:
    """A request as it came. head: the message without its id and its tensors, which is the same
    from call to call of most callers. raws: raw_input_contents, views of what came."""

    id: str
    head: bytes
    raws: list[memoryview]


def read_request(data: bytes) -> WireRequest:
    """Takes a serialised ModelInferRequest apart. Raises InvalidInput where it is none.

    A message is its fields one after the other, each behind its number and wire type and, with one
    of bytes, a length (https://protobuf.dev/programming-guides/encoding/).
    """
    view, end = memoryview(data), len(data)
    found, raws, kept = "", [], []
    position = begin = 0
    while position < end:
        field = position
        tag = data[position]
        if tag & 0x87 != LENGTH_DELIMITED:
            return _read_by_protobuf(data)
        position += 1
        length = shift = 0
        while True:
            if position == end or shift > 28:
                raise InvalidInput(_CUT_OFF.format(end))
            byte = data[position]
            position += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        after = position + length
        if after > end:
            raise InvalidInput(_CUT_OFF.format(end))
        if tag in (_RAW, _ID):
            kept.append(data[begin:field])
            begin = after
            if tag == _RAW:
                raws.append(view[position:after])
            else:
                found = _text(view[position:after])
        position = after
    kept.append(data[begin:end])
    return WireRequest(found, b"".join(kept), raws)


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
