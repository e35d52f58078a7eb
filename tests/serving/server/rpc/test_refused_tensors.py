"""Tensors whose data, datatype, shape and contents do not agree are refused with the reason."""

import struct

import pytest

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput
from tests.serving.server.rpc.tensors import CONTENTS, VALUES, call_of, raw_request, typed_request


def assert_refused(request: pb.ModelInferRequest, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call_of(request)


@pytest.mark.parametrize("length", [0, 23, 25, 48])
def test_raw_data_of_another_length_is_refused(length: int) -> None:
    request = raw_request("FP32", [2, 3], bytes(length))
    assert_refused(request, rf"input 'x': FP32 \[2, 3\] takes 24 bytes, got {length}")


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1, "raw_input_contents: 1 given, none is left for input 'b'"),
        (3, "raw_input_contents: 1 more than there are inputs"),
    ],
)
def test_another_number_of_raw_contents_than_inputs_is_refused(count: int, message: str) -> None:
    request = pb.ModelInferRequest()
    for name in ("a", "b"):
        request.inputs.add(name=name, datatype="UINT8", shape=[1])
    request.raw_input_contents.extend([b"\x00"] * count)
    assert_refused(request, message)


def test_raw_contents_without_inputs_are_refused() -> None:
    request = pb.ModelInferRequest(raw_input_contents=[b"\x00"])
    assert_refused(request, "raw_input_contents: 1 more than there are inputs")


def test_typed_beside_raw_contents_are_refused() -> None:
    request = typed_request("UINT8", [1], uint_contents=[1])
    request.raw_input_contents.append(b"\x01")
    assert_refused(request, "'x' has contents although raw_input_contents are given")


def test_input_given_twice_is_refused() -> None:
    request = raw_request("UINT8", [1], b"\x00")
    request.inputs.add(name="x", datatype="UINT8", shape=[1])
    request.raw_input_contents.append(b"\x00")
    assert_refused(request, "input 'x' is given twice")


@pytest.mark.parametrize("datatype", ["", "FLOAT", "fp32", "TYPE_FP32", "INT4"])
def test_unknown_datatype_is_refused_with_the_known_ones(datatype: str) -> None:
    request = raw_request(datatype, [1], b"\x00")
    assert_refused(request, rf"input 'x': unknown datatype '{datatype}'; expected one of \['BF16'")


@pytest.mark.parametrize("shape", [[-1], [2, -3], [-1, -1], [-(2**63)]])
def test_negative_size_is_refused(shape: list[int]) -> None:
    assert_refused(raw_request("UINT8", shape, b"\x00"), "input 'x': negative size in")


@pytest.mark.parametrize("shape", [[1] * 65, [0, 2**62, 2**62], [2**63 - 1, 2**63 - 1, 0]])
@pytest.mark.parametrize("datatype", ["UINT8", "BYTES"])
def test_shape_that_no_array_can_have_is_refused(datatype: str, shape: list[int]) -> None:
    elements = 1 if len(shape) == 65 else 0
    raw = {"UINT8": b"\x07", "BYTES": b"\x01\x00\x00\x00a"}[datatype] * elements
    assert_refused(raw_request(datatype, shape, raw), "input 'x': shape .* cannot be held")
    contents = {
        "UINT8": {"uint_contents": [7] * elements},
        "BYTES": {"bytes_contents": [b"a"] * elements},
    }
    request = typed_request(datatype, shape, **contents[datatype])
    assert_refused(request, "input 'x': shape .* cannot be held")


def test_shape_far_beyond_the_data_is_refused_by_size() -> None:
    shape = [2**40]
    assert_refused(typed_request("FP64", shape), r"takes \d+ elements in fp64_contents, got 0")
    assert_refused(raw_request("FP64", shape, bytes(8)), r"takes \d+ bytes, got 8")


def test_shape_whose_size_64_bits_would_take_for_nothing_is_refused() -> None:
    assert_refused(typed_request("FP64", [2**62, 2**62]), "cannot be held")
    assert_refused(raw_request("FP64", [2**62, 2**62], b""), "cannot be held")


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_type_without_typed_contents_must_be_raw(datatype: str) -> None:
    assert_refused(typed_request(datatype, [1]), f"input 'x': {datatype} can only be sent raw")


@pytest.mark.parametrize("datatype", [name for name in CONTENTS if name != "BYTES"])
def test_another_number_of_typed_elements_is_refused(datatype: str) -> None:
    request = typed_request(datatype, [2, 3], **{CONTENTS[datatype]: VALUES[datatype][:5]})
    field = CONTENTS[datatype]
    assert_refused(request, rf"input 'x': {datatype} \[2, 3\] takes 6 elements in {field}, got 5")


def test_elements_in_the_wrong_list_are_refused_with_the_right_one() -> None:
    request = typed_request("INT64", [2], int_contents=[1, 2])
    assert_refused(request, "takes 2 elements in int64_contents, got 0")


def test_input_without_any_data_is_refused() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    assert_refused(request, "takes 1 elements in fp32_contents, got 0")


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("UINT8", 256), ("UINT16", 65536), ("INT8", 128), ("INT8", -129), ("INT16", 32768)],
)
def test_element_out_of_the_types_range_is_refused(datatype: str, value: int) -> None:
    request = typed_request(datatype, [2], **{CONTENTS[datatype]: [0, value]})
    assert_refused(request, f"input 'x': an element does not fit {datatype}")


@pytest.mark.parametrize(
    "data",
    [b"\x01", b"\x01\x00\x00", b"\x01\x00\x00\x00", b"\x03\x00\x00\x00ab", b"\xff\xff\xff\xffa"],
    ids=["length 1", "length 3", "no element", "short element", "huge element"],
)
def test_bytes_that_end_in_an_element_are_refused(data: bytes) -> None:
    whole = struct.pack("<I", 2) + b"ok"
    assert_refused(raw_request("BYTES", [1], data), "ends in the middle of an? (element|length)")
    assert_refused(
        raw_request("BYTES", [2], whole + data), "ends in the middle of an? (element|length)"
    )


@pytest.mark.parametrize(("count", "got"), [(0, "0"), (1, "1"), (3, "more")])
def test_another_number_of_bytes_elements_is_refused(count: int, got: str) -> None:
    message = rf"input 'x': BYTES \[2\] takes 2 elements, got {got}"
    assert_refused(raw_request("BYTES", [2], b"\x01\x00\x00\x00a" * count), message)
    assert_refused(typed_request("BYTES", [2], bytes_contents=[b"a"] * count), message)
