"""Answers are written as clients read them, ranked where a call asks for classes."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from tritonclient.utils import (
    deserialize_bytes_tensor,
    serialize_byte_tensor,
)

from protos.gen import grpc_service_pb2 as pb
from serving.base.errors import InvalidInput
from serving.base.tensor import Array
from serving.base.turns import Turns
from serving.server.endpoints import oip
from serving.server.endpoints.oip import (
    InferAnswer,
    OutputTensor,
)
from serving.server.endpoints.shared_memory import Place
from serving.server.rpc.codec import encode_answer
from tests.serving.server.rpc.tensors import (
    VALUES,
    array_of,
    server,
    to_raw,
)


def top_classes(name: str, array: Array, count: int, labels: Sequence[str], batched: bool) -> Array:
    return asyncio.run(oip.top_classes(name, array, count, labels, batched, Turns()))


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
