"""The protocol's tensors to numpy and back: every datatype, raw and typed, and every mistake."""

import asyncio
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferInput
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
)

from protos.gen import grpc_service_pb2 as pb
from protos.gen import model_config_pb2
from serving.base.errors import InvalidInput
from serving.base.metrics import FrontMetrics
from serving.base.tensor import NUMPY_TYPES, Array, TensorSpec
from serving.base.turns import Turns
from serving.models.facts import ModelFacts
from serving.repository.model_config import from_proto
from serving.server.endpoints import oip, raw_tensors
from serving.server.endpoints.admin import Admin
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.declared import WantedOutput
from serving.server.endpoints.file_writer import FilesFolder
from serving.server.endpoints.oip import (
    InferAnswer,
    InferRequest,
    OpenInference,
    OutputTensor,
)
from serving.server.endpoints.shared_memory import Place, SharedMemory
from serving.server.endpoints.tracing import Tracer
from serving.server.rpc.codec import decode_request, encode_answer, read_head
from serving.server.rpc.request_parts import read_request

# Two rows of three elements that span each type's range.
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True, False, False, True],
    "UINT8": [0, 1, 2, 127, 128, 255],
    "UINT16": [0, 1, 255, 256, 32768, 65535],
    "UINT32": [0, 1, 65535, 65536, 2**31, 2**32 - 1],
    "UINT64": [0, 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1],
    "INT8": [-128, -1, 0, 1, 2, 127],
    "INT16": [-32768, -1, 0, 1, 256, 32767],
    "INT32": [-(2**31), -1, 0, 1, 65536, 2**31 - 1],
    "INT64": [-(2**63), -1, 0, 1, 2**53 + 1, 2**63 - 1],
    "FP16": [-65504.0, -0.5, 0.0, 1.0, 1.5, 65504.0],
    "BF16": [0x0000, 0x3F80, 0xBF80, 0x7F7F, 0x4049, 0xFFFF],
    "FP32": [-3.4e38, -0.5, 0.0, 1e-30, 1.5, 3.4e38],
    "FP64": [-1e300, -0.5, 0.0, 1e-300, 1 / 3, 1e300],
    "BYTES": [b"", b"a", b"\x00\xff", b"four", b"\xd8" * 300, "é".encode()],
}
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def array_of(datatype: str) -> Array:
    array = np.empty(6, NUMPY_TYPES[datatype])
    array[:] = VALUES[datatype]
    return array.reshape(2, 3)


def raw_request(datatype: str, shape: list[int], data: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    request.raw_input_contents.append(data)
    return request


def typed_request(datatype: str, shape: list[int], **contents: list[Any]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    tensor.contents.SetInParent()
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return request


def model_for(request: pb.ModelInferRequest) -> ModelFacts:
    """A model that takes what a request declares; only its outputs are given."""
    kinds = {tensor.name: tensor for tensor in request.inputs}
    inputs = tuple(
        TensorSpec(name, tensor.datatype, (-1,) * len(tensor.shape))
        for name, tensor in kinds.items()
    )
    outputs = tuple(TensorSpec(name, "FP32", (4,)) for name in ("logits", "mask"))
    config = from_proto(model_config_pb2.ModelConfig(platform="fake"), Path("m") / "config.pbtxt")
    return ModelFacts(config, "3", "fake", "fp32", None, inputs, outputs)


def server(max_message: int = 1 << 20) -> OpenInference:
    everybody = Admin("open", explicit=True, memory=True)
    tracer = Tracer(FilesFolder(None), FrontMetrics().write_failures)
    return OpenInference(SharedMemory("convserve"), tracer, everybody, max_message, Turns())


def to_raw(array: Array) -> bytes:
    return bytes(asyncio.run(raw_tensors.to_raw(array, Turns())))


def top_classes(name: str, array: Array, count: int, labels: Sequence[str], batched: bool) -> Array:
    return asyncio.run(oip.top_classes(name, array, count, labels, batched, Turns()))


def decoded_of(request: pb.ModelInferRequest, facts: ModelFacts) -> InferRequest:
    async def run() -> InferRequest:
        front: Any = SimpleNamespace(take=lambda use, size: None)
        read = read_request(request.SerializeToString())
        head = read_head(read)
        call = InferenceCall(front, "ModelInfer", lambda: None, 0, math.inf)
        return await decode_request(read, head, call, facts, server())

    return asyncio.run(run())


def call_of(request: pb.ModelInferRequest) -> InferRequest:
    return decoded_of(request, model_for(request))


def decoded(request: pb.ModelInferRequest) -> Array:
    return call_of(request).inputs["x"]


def assert_refused(request: pb.ModelInferRequest, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call_of(request)


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


def test_bytes_are_written_as_tritonclient_writes_and_reads_them() -> None:
    array = array_of("BYTES")
    assert to_raw(array) == serialize_byte_tensor(array).item()
    assert deserialize_bytes_tensor(to_raw(array)).tolist() == array.ravel().tolist()


def test_text_is_written_as_utf8() -> None:
    assert to_raw(np.array(["é"], np.object_)) == b"\x02\x00\x00\x00\xc3\xa9"


def test_array_in_another_memory_order_is_written_by_rows() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert to_raw(np.asfortranarray(array)) == bytes(range(6))
    assert to_raw(array[:, ::2]) == bytes([0, 2, 3, 5])


def answer(*outputs: OutputTensor) -> InferAnswer:
    return InferAnswer(model="m", version="3", id="call", outputs=outputs)


def encoded(answer: InferAnswer, **limits: int) -> pb.ModelInferResponse:
    return pb.ModelInferResponse.FromString(asyncio.run(encode_answer(answer, server(**limits))))


def test_answer_describes_each_output_beside_its_data() -> None:
    first = OutputTensor("y", "FP32", np.ones((2, 3), np.float32))
    second = OutputTensor("labels", "BYTES", array_of("BYTES"))
    response = encoded(answer(first, second))
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "call")
    described = [(output.name, output.datatype, list(output.shape)) for output in response.outputs]
    assert described == [("y", "FP32", [2, 3]), ("labels", "BYTES", [2, 3])]
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [1.0] * 6
    assert deserialize_bytes_tensor(response.raw_output_contents[1]).tolist() == VALUES["BYTES"]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000, 3_000_000])
def test_answer_of_any_size_is_a_whole_message(size: int) -> None:
    data = np.arange(size, dtype=np.uint8)
    given = answer(OutputTensor("y", "UINT8", data))
    [raw] = encoded(given, max_message=4_000_000).raw_output_contents
    assert raw == data.tobytes()
    message = asyncio.run(encode_answer(given, server(max_message=4_000_000), streamed=True))
    response = pb.ModelStreamInferResponse.FromString(message).infer_response
    assert response.parameters["triton_final_response"].bool_param
    assert response.id == "call"
    assert list(response.raw_output_contents) == [raw]


def test_output_of_another_memory_order_is_sent_by_rows() -> None:
    data = np.arange(6, dtype=np.float32).reshape(2, 3).T
    response = encoded(answer(OutputTensor("y", "FP32", data)))
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [0, 3, 1, 4, 2, 5]


def test_output_in_shared_memory_travels_as_its_place() -> None:
    here = OutputTensor("a", "UINT8", np.array([7], np.uint8))
    there = OutputTensor("b", "UINT8", np.array([9], np.uint8), Place("region", 64, 1))
    response = encoded(answer(there, here))
    parameters = response.outputs[0].parameters
    assert parameters["shared_memory_region"].string_param == "region"
    assert parameters["shared_memory_offset"].int64_param == 64
    assert parameters["shared_memory_byte_size"].int64_param == 1
    # Clients find an output's data by its place among the outputs.
    assert list(response.raw_output_contents) == [b"", b"\x07"]


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


LOGITS = np.array([[0.5, -1.0, 2.0], [3.0, 3.0, 1.0]], np.float32)


def test_classification_ranks_the_output_as_it_is_with_labels() -> None:
    found = top_classes("y", LOGITS, 2, ("cat", "dog", "emu"), batched=True)
    assert found.tolist() == [
        [b"2.000000:2:emu", b"0.500000:0:cat"],
        [b"3.000000:0:cat", b"3.000000:1:dog"],
    ]


def test_classification_without_a_label_gives_value_and_index() -> None:
    found = top_classes("y", LOGITS, 1, ("cat",), batched=True)
    assert found.tolist() == [[b"2.000000:2"], [b"3.000000:0:cat"]]


def test_classification_of_integers_has_no_decimals() -> None:
    found = top_classes("y", np.array([[7], [9]], np.uint8), 1, (), batched=True)
    assert found.tolist() == [[b"7:0"], [b"9:0"]]


def test_classification_past_the_number_of_classes_gives_all() -> None:
    assert top_classes("y", LOGITS, 2**62, (), batched=True).shape == (2, 3)


def test_rows_are_flattened_for_classification() -> None:
    array = np.array([[[1, 5], [9, 2]]], np.float64)
    assert top_classes("y", array, 2, (), batched=True).tolist() == [[b"9.000000:2", b"5.000000:1"]]


def test_model_that_does_not_batch_is_ranked_as_one_row() -> None:
    array = np.array([3, 9, 5], np.int32)
    assert top_classes("y", array, 2, (), batched=False).tolist() == [b"9:1", b"5:2"]


@pytest.mark.parametrize("dtype", [np.bool_, np.float16, np.object_])
def test_output_that_cannot_be_ranked_is_refused(dtype: type[np.generic]) -> None:
    with pytest.raises(InvalidInput, match=r"output 'y': .* has no classification"):
        top_classes("y", np.zeros((1, 2), dtype), 1, (), batched=True)
