"""The Open Inference Protocol, by an unmodified tritonclient against a real server process."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper
from PIL import Image
from tritonclient.utils import InferenceServerException

from protos.gen import grpc_service_pb2 as pb
from protos.gen import grpc_service_pb2_grpc
from tests.support.process import ServerProcess
from tests.support.published import samples

RED_PNG = io.BytesIO()
Image.new("RGB", (9, 5), (200, 0, 0)).save(RED_PNG, format="PNG")


@pytest.fixture
def client(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.url)
    yield client
    client.close()


def image_input(array: np.ndarray[Any, Any], name: str = "image") -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), "UINT8")
    tensor.set_data_from_numpy(array)
    return tensor


def encoded_input(*files: bytes) -> triton.InferInput:
    tensor = triton.InferInput("encoded", [len(files), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[file] for file in files], dtype=np.object_))
    return tensor


def test_client_finds_the_server_live_and_its_models_ready(
    client: triton.InferenceServerClient,
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert client.is_model_ready("colours", "1")
    assert not client.is_model_ready("colours", "2")
    assert not client.is_model_ready("nothing")


def test_client_lists_the_repository(client: triton.InferenceServerClient) -> None:
    index = client.get_model_repository_index(as_json=True)["models"]
    assert [(m["name"], m["version"], m["state"]) for m in index] == [
        ("colours", "1", "READY"),
        ("points", "1", "READY"),
        ("regions", "1", "READY"),
    ]


def test_client_describes_the_server_and_a_model(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata().name == "convserve"
    metadata = client.get_model_metadata("colours")
    assert list(metadata.versions) == ["1"]
    assert metadata.platform == "onnxruntime_onnx"
    [image], [logits] = metadata.inputs, metadata.outputs
    assert (image.name, image.datatype, list(image.shape)) == ("image", "UINT8", [-1, 8, 8, 3])
    assert (logits.name, logits.datatype, list(logits.shape)) == ("logits", "FP32", [-1, 3])


def test_model_config_is_the_file_and_says_what_serves(
    client: triton.InferenceServerClient,
) -> None:
    config = client.get_model_config("colours").config
    assert config.name == "colours"
    assert config.max_batch_size == 8
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters["task"] == "classification"
    assert parameters["encoded_image_input"] == "encoded"
    assert parameters["classes"].split("\n") == ["red", "green", "blue"]
    assert parameters["measure"] == "top1"
    assert json.loads(parameters["accuracy"])["value"] >= 0.99


def test_raw_tensor_is_answered_row_by_row(client: triton.InferenceServerClient) -> None:
    images = samples()
    result = client.infer("colours", [image_input(images)], request_id="abc")
    expected = images.mean(axis=(1, 2)) * 10 / 255
    assert result.as_numpy("logits") == pytest.approx(expected, rel=1e-5)
    assert result.get_response().id == "abc"


def test_typed_contents_are_answered_as_raw_ones(server: ServerProcess) -> None:
    import grpc

    image = samples()[:1]
    request = pb.ModelInferRequest(model_name="colours")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=image.shape)
    tensor.contents.uint_contents.extend(image.reshape(-1).tolist())
    with grpc.insecure_channel(server.url) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(request)
    logits = np.frombuffer(response.raw_output_contents[0], np.float32)
    assert logits == pytest.approx(image.mean(axis=(1, 2))[0] * 10 / 255, rel=1e-5)


def test_encoded_images_take_the_place_of_the_tensor(
    client: triton.InferenceServerClient,
) -> None:
    files = [RED_PNG.getvalue()]
    for image in samples():
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        files.append(file.getvalue())
    logits = client.infer("colours", [encoded_input(*files)]).as_numpy("logits")
    assert logits.argmax(axis=1).tolist() == [0, 0, 1, 2, 0, 1, 2]
    raw = client.infer("colours", [image_input(samples())]).as_numpy("logits")
    assert logits[1:].tolist() == raw.tolist()


def test_classification_extension_ranks_the_output_as_it_is(
    client: triton.InferenceServerClient,
) -> None:
    wanted = triton.InferRequestedOutput("logits", class_count=2)
    images = samples()[:1]
    [first, second] = client.infer("colours", [image_input(images)], outputs=[wanted]).as_numpy(
        "logits"
    )[0]
    value, index, label = first.decode().split(":")
    assert (index, label) == ("0", "red")
    assert float(value) == pytest.approx(images.mean(axis=(1, 2)).max() * 10 / 255, abs=1e-5)
    assert float(second.decode().split(":")[0]) <= float(value)


def test_only_the_requested_outputs_come_back(client: triton.InferenceServerClient) -> None:
    wanted = triton.InferRequestedOutput("confidence")
    result = client.infer("regions", [image_input(samples()[:1])], outputs=[wanted])
    assert [output.name for output in result.get_response().outputs] == ["confidence"]


def test_async_calls_and_streams_are_answered(client: triton.InferenceServerClient) -> None:
    import queue

    answers: queue.Queue[tuple[triton.InferResult, Exception | None]] = queue.Queue()

    def callback(result: triton.InferResult, error: Exception | None) -> None:
        answers.put((result, error))

    client.async_infer("colours", [image_input(samples()[:1])], callback)
    assert answers.get(timeout=10)[1] is None
    client.start_stream(callback)
    for index in range(5):
        client.async_stream_infer("colours", [image_input(samples()[:1])], request_id=str(index))
    received = [answers.get(timeout=10) for _ in range(5)]
    client.stop_stream()
    assert [result.get_response().id for result, _ in received] == ["0", "1", "2", "3", "4"]
    assert all(error is None for _, error in received)


def test_statistics_count_requests_rows_and_batches(
    client: triton.InferenceServerClient, server: ServerProcess
) -> None:
    def read() -> dict[str, Any]:
        found: dict[str, Any] = client.get_inference_statistics("points", as_json=True)
        return found["model_stats"][0]

    before = int(read().get("inference_count", 0))
    client.infer("points", [image_input(samples()[:4])])
    after = read()
    assert int(after["inference_count"]) == before + 4
    assert any(int(batch["batch_size"]) == 4 for batch in after["batch_stats"])
    shown = server.metric('nv_inference_count{model="points",version="1"}')
    assert shown == float(after["inference_count"])


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        ("nothing", [image_input(samples())], "'colours'"),
        ("colours", [], "missing"),
        ("colours", [image_input(samples(), "picture")], "no input 'picture'"),
        ("colours", [image_input(samples()[:, :4])], "[-1, 8, 8, 3], got UINT8 [6, 4, 8, 3]"),
        ("colours", [image_input(np.zeros((9, 8, 8, 3), np.uint8))], "expected 1 to 8 rows"),
        ("colours", [encoded_input(b"broken")], "not an image"),
        ("colours", [encoded_input(RED_PNG.getvalue()), image_input(samples())], "takes the place"),
    ],
)
def test_wrong_tensors_are_refused_with_what_was_expected(
    client: triton.InferenceServerClient, model: str, inputs: list[triton.InferInput], said: str
) -> None:
    with pytest.raises(InferenceServerException) as failure:
        client.infer(model, inputs)
    assert said in failure.value.message()
    assert failure.value.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")


def test_wrong_datatype_is_refused(client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("image", [1, 8, 8, 3], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(InferenceServerException, match="expected UINT8"):
        client.infer("colours", [tensor])


@pytest.mark.parametrize("data", [b"\x3a\x05abc", b"\x1a\x01\xff", b"\x0a\x01\xff", b"\x02\x00"])
def test_bytes_that_are_no_request_are_refused(server: ServerProcess, data: bytes) -> None:
    with grpc.insecure_channel(server.url) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as refusal:
            infer(data)
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        [answer] = stream(iter([data]))
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "not a ModelInferRequest" in refusal.value.details()
    error = pb.ModelStreamInferResponse.FromString(answer).error_message
    assert "not a ModelInferRequest" in error


def test_unknown_output_is_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no output 'scores'"):
        client.infer(
            "colours",
            [image_input(samples())],
            outputs=[triton.InferRequestedOutput("scores")],
        )


def test_plain_onnx_models_of_any_shape_serve_when_allowed(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    """Two inputs of different types, two outputs, no batch dimension, and no config but a name."""
    folder = tmp_path / "plain" / "1"
    folder.mkdir(parents=True)
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["k"], ["kf"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "kf"], ["product"]),
            helper.make_node("Add", ["k", "k"], ["double"]),
        ],
        "plain",
        [info("x", TensorProto.FLOAT, [2, 3]), info("k", TensorProto.INT64, [1])],
        [info("product", TensorProto.FLOAT, [2, 3]), info("double", TensorProto.INT64, [1])],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    (tmp_path / "plain" / "config.pbtxt").write_text('platform: "onnxruntime_onnx"\n')
    server = start_server(tmp_path, "--allow-ungated").wait_ready()
    client = triton.InferenceServerClient(server.url)
    x, k = triton.InferInput("x", [2, 3], "FP32"), triton.InferInput("k", [1], "INT64")
    x.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
    k.set_data_from_numpy(np.array([3], np.int64))
    result = client.infer("plain", [x, k])
    assert result.as_numpy("product").tolist() == [[0, 3, 6], [9, 12, 15]]
    assert result.as_numpy("double").tolist() == [6]
    client.close()
