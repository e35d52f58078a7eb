"""Takes a ModelInferRequest apart without copying its tensors. Python's protobuf copies them twice:
into the message and out of it again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput
from serving.server.rpc.fields import (
    LENGTH_DELIMITED,
    bytes_field,
    field_at,
    fields,
    long_length,
    too_many_fields,
    unfinished,
)

_MESSAGE = "ModelInferRequest"
_FIELDS = pb.ModelInferRequest.DESCRIPTOR.fields_by_name
_ID = _FIELDS["id"].number << 3 | LENGTH_DELIMITED
_INPUT = _FIELDS["inputs"].number << 3 | LENGTH_DELIMITED
_RAW = _FIELDS["raw_input_contents"].number << 3 | LENGTH_DELIMITED
_CONTENTS = (
    pb.ModelInferRequest.InferInputTensor.DESCRIPTOR.fields_by_name["contents"].number << 3
    | LENGTH_DELIMITED
)
# Fields of a message and of an input; one takes 0.2 us. A request has one for each of its inputs,
# outputs and parameters, and one for each tensor.
_MAX_FIELDS = 1024
# Bytes of a request without its id and its tensors, and of its id. They name inputs, outputs and
# parameters; protobuf and Python take up to 3 ms for that many.
_MAX_HEAD_BYTES = 64 << 10


@dataclass(slots=True)
class RequestParts:
    """A request in parts.

    id: the name that its caller gave it.
    head: the message without its id and its tensors; most callers send the same in every call.
    raws: raw_input_contents, views of the message.
    contents: by the place of an input, its serialised InferTensorContents.
    """

    id: str
    head: bytes
    raws: list[memoryview]
    contents: dict[int, memoryview]


class _Known(NamedTuple):
    """A message without an id and with one raw tensor, its last field.

    start: the message without the tensor's elements.
    head: its RequestParts.head.
    """

    start: bytes
    head: bytes


_NO_CONTENTS: dict[int, memoryview] = {}
# By the length of the whole message.
_known: dict[int, _Known] = {}
# Messages that are remembered, and the bytes that one may have before its elements. More cost
# memory; fewer have more callers' messages taken apart.
_KNOWN = 256
_KNOWN_BYTES = 1024


def read_request(data: bytes) -> RequestParts:
    """Takes a serialised ModelInferRequest apart. Raises InvalidInput where it is none.

    Most callers send one message again and again in which only the elements of its one tensor
    differ, and those stand at its end: comparing the bytes before them tells such a message.
    """
    known = _known.get(len(data))
    if known is not None and data.startswith(known.start):
        return RequestParts("", known.head, [memoryview(data)[len(known.start) :]], _NO_CONTENTS)
    return _take_apart(data)


def _take_apart(data: bytes) -> RequestParts:
    """Walks the fields of a message. Most have a tag and a length of one byte, and are read here:
    it takes half as long."""
    view, end = memoryview(data), len(data)
    found, inputs = "", 0
    kept: list[memoryview] = []
    raws: list[memoryview] = []
    contents: dict[int, memoryview] = {}
    position = begin = 0
    try:
        for _ in range(_MAX_FIELDS):
            if position >= end:
                break
            tag, length = data[position], data[position + 1]
            if tag & 0x87 != LENGTH_DELIMITED:
                position = field_at(data, position, _MESSAGE).end
                continue
            start = position + 2
            if length > 0x7F:
                length, start = long_length(data, position + 1)
            after = start + length
            if tag == _INPUT:
                # Looking for the byte is quicker than walking over the fields of every input.
                if data.find(_CONTENTS, start, after) >= 0 and after <= end:
                    declared, lists = _without_contents(view[start:after])
                    if lists is not None:
                        kept += (view[begin:position], memoryview(declared))
                        begin = after
                        contents[inputs] = lists
                inputs += 1
            elif tag in (_RAW, _ID):
                kept.append(view[begin:position])
                begin = after
                if tag == _RAW:
                    raws.append(view[start:after])
                else:
                    found = _id(view[start:after])
            position = after
    except IndexError:
        position = end + 1
    if position != end:
        if position < end:
            raise too_many_fields(_MESSAGE, _MAX_FIELDS)
        raise unfinished(_MESSAGE, end)
    kept.append(view[begin:end])
    head = _joined(kept, "a request beside its tensors and its id")
    if begin == end and len(raws) == 1 and not found and not contents:
        _remember(data[: end - len(raws[0])], head, end)
    return RequestParts(found, head, raws, contents)


def _without_contents(tensor: memoryview) -> tuple[bytes, memoryview | None]:
    """An input without its contents, as a field of the request, and the contents; None where it has
    none. Several are one, as protobuf merges messages."""
    kept: list[memoryview] = []
    lists: list[memoryview] = []
    begin = 0
    for field in fields(tensor, "InferInputTensor", _MAX_FIELDS):
        if field.tag == _CONTENTS:
            kept.append(tensor[begin : field.at])
            lists.append(tensor[field.begin : field.end])
            begin = field.end
    kept.append(tensor[begin:])
    declared = _joined(kept, "an input without its contents")
    if not lists:
        return declared, None
    return (
        bytes_field(_INPUT >> 3, len(declared)) + declared,
        lists[0] if len(lists) == 1 else memoryview(_joined(lists, "contents in several parts")),
    )


def _joined(parts: Sequence[memoryview], what: str) -> bytes:
    """The parts as one. Raises InvalidInput, before anything is copied, where they are long."""
    size = sum(map(len, parts))
    if size > _MAX_HEAD_BYTES:
        raise InvalidInput(f"{what}: expected at most {_MAX_HEAD_BYTES} bytes, got {size}")
    return b"".join(parts)


def check_fields(message: str, data: bytes) -> None:
    """Raises InvalidInput for a serialised message of more fields than any call needs."""
    for _ in fields(memoryview(data), message, _MAX_FIELDS):
        pass


def _remember(start: bytes, head: bytes, size: int) -> None:
    if len(start) <= _KNOWN_BYTES:
        if len(_known) == _KNOWN:
            _known.clear()
        _known[size] = _Known(start, head)


def parse_request(data: bytes) -> pb.ModelInferRequest:
    """The message as protobuf reads it. Raises InvalidInput where it is none."""
    try:
        return pb.ModelInferRequest.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"not a ModelInferRequest: {error}") from error


def _id(data: memoryview) -> str:
    if len(data) > _MAX_HEAD_BYTES:
        raise InvalidInput(f"id: expected at most {_MAX_HEAD_BYTES} bytes, got {len(data)}")
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not a ModelInferRequest: its id is not UTF-8: {error}") from error
