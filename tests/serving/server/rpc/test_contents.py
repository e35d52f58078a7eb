"""Typed contents are read out of the message as protobuf reads them."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput
from serving.base.tensor import Array
from serving.base.turns import Turns
from serving.server.rpc import contents
from serving.server.rpc.contents import from_contents

LISTS = {
    "BOOL": ("bool_contents", st.booleans()),
    "INT32": ("int_contents", st.integers(-(2**31), 2**31 - 1)),
    "INT64": ("int64_contents", st.integers(-(2**63), 2**63 - 1)),
    "UINT32": ("uint_contents", st.integers(0, 2**32 - 1)),
    "UINT64": ("uint64_contents", st.integers(0, 2**64 - 1)),
    "FP32": ("fp32_contents", st.floats(width=32, allow_nan=False)),
    "FP64": ("fp64_contents", st.floats(allow_nan=False)),
    "BYTES": ("bytes_contents", st.binary(max_size=300)),
}


def decoded(data: bytes, datatype: str, count: int) -> Array:
    return asyncio.run(from_contents("x", datatype, (count,), memoryview(data), Turns()))


def packed(datatype: str, values: list[Any]) -> bytes:
    return pb.InferTensorContents(**{LISTS[datatype][0]: values}).SerializeToString()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), turn_bytes=st.sampled_from([10, 64, 16 << 10]))
@pytest.mark.parametrize("datatype", LISTS)
def test_elements_are_those_of_protobuf(datatype: str, data: Any, turn_bytes: int) -> None:
    values = data.draw(st.lists(LISTS[datatype][1], max_size=40))
    before, contents._TURN_BYTES = contents._TURN_BYTES, turn_bytes
    try:
        assert decoded(packed(datatype, values), datatype, len(values)).tolist() == values
    finally:
        contents._TURN_BYTES = before


@pytest.mark.parametrize("datatype", [name for name in LISTS if name != "BYTES"])
def test_list_in_several_fields_is_one(datatype: str) -> None:
    values = [1, 0, 1, 1]
    data = packed(datatype, values[:1]) + packed("BYTES", [b"passed over"])
    assert decoded(data + packed(datatype, values[1:]), datatype, 4).tolist() == values


@pytest.mark.parametrize(
    ("datatype", "one"),
    [("INT32", b"\x10\x07"), ("UINT64", b"\x28\x07"), ("FP32", b"\x35\x00\x00\xe0\x40")],
)
def test_list_with_a_field_for_each_number_is_read_while_it_is_short(
    datatype: str, one: bytes
) -> None:
    assert decoded(one * 3, datatype, 3).tolist() == [7, 7, 7]
    assert decoded(one * 500, datatype, 500).tolist() == [7] * 500
    with pytest.raises(InvalidInput, match="in one field"):
        decoded(one * 100_000, datatype, 100_000)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT32", b"\x12\x03\x80\x80\x80"),
        ("INT32", b"\x12\x0b" + b"\x80" * 10 + b"\x01"),
        ("INT64", b"\x1a\x0c\x01" + b"\xff" * 10 + b"\x01"),
        ("UINT32", b"\x22\x7f\x01"),
        ("FP32", b"\x32\x05\x00\x00\x00\x00\x00"),
        ("BYTES", b"\x42\x7f"),
        ("BYTES", b"\x42"),
        ("BYTES", b"\x42\xff\xff\xff\xff\xff\xff"),
        ("BYTES", b"\x43\x44"),
        ("FP32", b"\x00\x00"),
        ("INT32", b"\x12\x01\x81" * 2),
    ],
)
def test_damaged_list_is_refused(datatype: str, data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decoded(data, datatype, 1)


def test_number_of_elements_is_checked_before_they_are_made() -> None:
    for data in (b"\x42\x00" * 1_000_000, b"\x12\x00" * 1_000_000, b"\x48\x00" * 1_000_000):
        with pytest.raises(InvalidInput, match=r"more|at most"):
            decoded(data, "BYTES", 1)
    ones = packed("INT32", [1] * 300_000)
    with pytest.raises(InvalidInput, match="got more"):
        decoded(ones, "INT32", 10)
    with pytest.raises(InvalidInput, match="got 300000"):
        decoded(ones, "INT32", 1 << 40)


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT16", -1 % 2**32)])
def test_element_that_does_not_fit_is_refused_in_any_slice(
    datatype: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_TURN_BYTES", 64)
    wide = "INT32" if datatype == "INT8" else "UINT32"
    with pytest.raises(InvalidInput, match="does not fit"):
        decoded(packed(wide, [1] * 500 + [value]), datatype, 501)


def test_floats_are_a_view_of_the_message() -> None:
    data = packed("FP32", [1.0, 2.0])
    assert not decoded(data, "FP32", 2).flags.owndata
    assert np.shares_memory(decoded(data, "FP32", 2), np.frombuffer(data, np.uint8))
