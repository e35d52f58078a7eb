"""The tensors and parameters of a request, raw and typed, are read as they were sent."""

import struct
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferInput
from tritonclient.utils import (
    np_to_triton_dtype,
)

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput
from serving.base.tensor import NUMPY_TYPES, Array
from serving.server.endpoints.declared import WantedOutput
from serving.server.rpc.codec import read_head
from serving.server.rpc.request_parts import read_request
from tests.serving.server.rpc.tensors import (
    CONTENTS,
    VALUES,
    array_of,
    call_of,
    raw_request,
    to_raw,
    typed_request,
)


def decoded(request: pb.ModelInferRequest) -> Array:
    return call_of(request).inputs["x"]


def test_values_cover_every_datatype() -> None:
    assert set(VALUES) == set(NUMPY_TYPES)
    assert set(CONTENTS) == set(NUMPY_TYPES) - {"FP16", "BF16"}


@pytest.mark.parametrize("datatype", VALUES)
def test_raw_tensor_round_trips(datatype: str) -> None:
    array = array_of(datatype)
    found = decoded(raw_request(datatype, [2, 3], to_raw(array)))
    assert found.dtype == array.dtype
    assert found.shape == (2, 3)
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_tensor_is_read_exactly(datatype: str) -> None:
    request = typed_request(datatype, [2, 3], **{CONTENTS[datatype]: VALUES[datatype]})
    found = decoded(request)
    assert found.dtype == NUMPY_TYPES[datatype]
    assert found.shape == (2, 3)
    assert found.tolist() == array_of(datatype).tolist()


@pytest.mark.parametrize("datatype", [name for name in VALUES if name != "BF16"])
def test_tensor_that_tritonclient_wrote_is_read(datatype: str) -> None:
    array = array_of(datatype)
    assert np_to_triton_dtype(array.dtype) == datatype
    tensor = InferInput("x", [2, 3], datatype).set_data_from_numpy(array)
    found = decoded(raw_request(datatype, [2, 3], tensor._get_content()))
    assert found.tolist() == array.tolist()


def test_bfloat16_travels_as_its_bits() -> None:
    # 1.0, -2.5 and 3.0: the upper halves of their float32 bits.
    found = decoded(raw_request("BF16", [3], b"\x80\x3f\x20\xc0\x40\x40"))
    assert found.dtype == np.uint16
    assert (found.astype(np.uint32) << 16).view(np.float32).tolist() == [1.0, -2.5, 3.0]
    assert to_raw(found) == b"\x80\x3f\x20\xc0\x40\x40"


def test_raw_tensor_is_a_view_and_not_a_copy() -> None:
    found = decoded(raw_request("UINT8", [1000], bytes(1000)))
    assert not found.flags.owndata
    assert not found.flags.writeable


@pytest.mark.parametrize("shape", [[0], [2, 0, 3], [0, 0]])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_tensor_without_elements_is_read(datatype: str, shape: list[int]) -> None:
    assert decoded(raw_request(datatype, shape, b"")).shape == tuple(shape)
    assert decoded(typed_request(datatype, shape)).shape == tuple(shape)


def test_scalar_has_no_dimensions() -> None:
    found = decoded(raw_request("INT32", [], struct.pack("<i", -7)))
    assert found.shape == ()
    assert found.item() == -7


def test_raw_elements_are_little_endian() -> None:
    assert decoded(raw_request("UINT16", [2], b"\x01\x00\x00\x01")).tolist() == [1, 256]
    assert to_raw(np.array([1, 256], np.uint16)) == b"\x01\x00\x00\x01"


def test_inputs_are_matched_with_raw_contents_by_place() -> None:
    request = pb.ModelInferRequest()
    for name, value in (("a", 1), ("b", 2)):
        request.inputs.add(name=name, datatype="UINT8", shape=[1])
        request.raw_input_contents.append(bytes([value]))
    found = call_of(request).inputs
    assert {name: array.tolist() for name, array in found.items()} == {"a": [1], "b": [2]}


def test_request_without_inputs_has_none() -> None:
    assert call_of(pb.ModelInferRequest()).inputs == {}


def wanted(**parameter: Any) -> list[WantedOutput]:
    """What a call asks for that names the output `logits` with a parameter `classification`."""
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.outputs.add(name="logits")
    tensor.parameters["classification"].CopyFrom(pb.InferParameter(**parameter))
    return list(call_of(request).wanted)


def test_call_carries_model_version_id_and_parameters() -> None:
    request = raw_request("UINT8", [1], b"\x05")
    request.model_name, request.model_version, request.id = "m", "3", "call"
    request.outputs.add(name="mask")
    request.parameters["priority"].uint64_param = 2
    request.parameters["note"].string_param = "x"
    call = call_of(request)
    head = read_head(read_request(request.SerializeToString()))
    assert (head.model, head.version, call.id) == ("m", "3", "call")
    assert call.inputs["x"].tolist() == [5]
    assert list(call.wanted) == [WantedOutput("mask")]
    assert call.parameters == {"priority": 2, "note": "x"}


def test_parameter_without_a_value_is_refused() -> None:
    request = pb.ModelInferRequest()
    request.parameters["priority"].SetInParent()
    with pytest.raises(InvalidInput, match="parameter 'priority' has no value"):
        call_of(request)


def test_classification_asks_for_so_many_classes() -> None:
    assert wanted(int64_param=2) == [WantedOutput("logits", class_count=2)]


@pytest.mark.parametrize(
    "parameter",
    [{"int64_param": 0}, {"int64_param": -1}, {"string_param": "2"}, {"bool_param": True}, {}],
)
def test_bad_classification_parameter_is_refused(parameter: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"parameter '?classification"):
        wanted(**parameter)
