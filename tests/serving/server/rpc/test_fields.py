"""The fields of serialised messages."""

import pytest

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput
from serving.server.rpc.fields import LENGTH_DELIMITED, bytes_field, fields


def test_fields_of_every_kind_are_told_apart() -> None:
    request = pb.ModelInferRequest(model_name="m" * 200)
    request.parameters["a"].double_param = 1.5
    request.parameters["b"].int64_param = -1
    data = memoryview(request.SerializeToString())
    found = list(fields(data, "ModelInferRequest", 10))
    assert [field.tag >> 3 for field in found] == [1, 4, 4]
    assert bytes(data[found[0].begin : found[0].end]) == b"m" * 200
    assert found[-1].end == len(data)
    value = next(iter(fields(data[found[2].begin : found[2].end], "entry", 1)), None)
    assert value is not None
    assert value.end - value.begin == 1  # the key


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # no length
        b"\x0a\x05abc",  # a length behind the end
        b"\x0a\xff\xff\xff\xff\xff\xff",  # a length that does not end
        b"\x08" + b"\xff" * 11,  # a number of more than ten bytes
        b"\x08\xff",  # a number that does not end
        b"\x09\x00",  # 8 bytes of which one is there
        b"\xff\xff",  # a tag that does not end
    ],
)
def test_a_field_that_does_not_end_is_named(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a thing: a field does not end within its"):
        list(fields(memoryview(data), "thing", 10))


def test_a_group_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not a thing: groups"):
        list(fields(memoryview(b"\x0b\x0c"), "thing", 10))


def test_as_many_fields_as_allowed_are_read_and_not_one_more() -> None:
    data = memoryview(bytes_field(1, 0) * 3)
    assert [field.tag for field in fields(data, "thing", 3)] == [1 << 3 | LENGTH_DELIMITED] * 3
    with pytest.raises(InvalidInput, match="thing: expected at most 2 fields"):
        list(fields(data, "thing", 2))


@pytest.mark.parametrize("size", [0, 127, 128, 300, 70_000, 1 << 21])
def test_a_written_field_is_read_back(size: int) -> None:
    data = bytes_field(9, size) + bytes(size)
    [field] = fields(memoryview(data), "thing", 1)
    assert field.end - field.begin == size
