"""The Open Inference Protocol over REST, by an unmodified tritonclient and by plain HTTP."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.support.process import TOKEN, ServerProcess
from tests.support.published import publish, samples

LOGITS = samples().mean(axis=(1, 2)) * 10 / 255


@pytest.fixture
def client(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.http.removeprefix("http://"))
    yield client
    client.close()


def image_input(*, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("image", [6, 8, 8, 3], "UINT8")
    tensor.set_data_from_numpy(samples(), binary_data=binary)
    return tensor


def post(url: str, body: Any, **headers: str) -> tuple[int, Any]:
    """Status and JSON of the answer to a JSON body, or to bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} | headers
    request = urllib.request.Request(url, data=data, headers=given, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read() or "null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_client_finds_server_and_model(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["name"] == "convserve"
    index = client.get_model_repository_index()
    assert {"name": "colours", "version": "1", "state": "READY"} in index


def test_client_describes_a_model(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("colours")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    config = client.get_model_config("colours")
    assert config["max_batch_size"] == 8
    assert config["input"][0]["dims"] == [8, 8, 3]
    assert config["input"][0]["data_type"] == "TYPE_UINT8"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tensors_travel_as_json_or_binary(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    wanted = triton.InferRequestedOutput("logits", binary_data=binary_out)
    result = client.infer("colours", [image_input(binary=binary_in)], outputs=[wanted])
    assert result.as_numpy("logits") == pytest.approx(LOGITS, rel=1e-5)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies_are_understood_and_sent(
    client: triton.InferenceServerClient, algorithm: str
) -> None:
    result = client.infer(
        "colours",
        [image_input(binary=True)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert result.as_numpy("logits") == pytest.approx(LOGITS, rel=1e-5)


def test_classification_and_ids(client: triton.InferenceServerClient) -> None:
    wanted = triton.InferRequestedOutput("logits", class_count=1)
    result = client.infer("colours", [image_input(binary=True)], outputs=[wanted], request_id="7")
    assert [x[0].decode().split(":")[2] for x in result.as_numpy("logits")] == [
        *("red", "green", "blue"),
        *("red", "green", "blue"),
    ]
    assert result.get_response()["id"] == "7"


def test_statistics_agree_with_metrics(
    client: triton.InferenceServerClient, server: ServerProcess
) -> None:
    client.infer("colours", [image_input(binary=True)])
    [found] = client.get_inference_statistics("colours")["model_stats"]
    shown = server.metric('nv_inference_count{model="colours",version="1"}')
    assert found["inference_count"] == shown
    assert found["inference_stats"]["success"]["count"] > 0


IMAGE: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        ({"inputs": 3}, "inputs: expected a list"),
        ({"inputs": [{"name": "image"}]}, "inputs[0].datatype"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": "x"}]}, "inputs[0].shape"),
        ({"inputs": [IMAGE | {"shape": [1], "data": [3]}]}, "expected UINT8 [-1, 8, 8, 3]"),
        ({"inputs": [IMAGE | {"data": [300] * 192}]}, "does not fit UINT8"),
        ({"inputs": [IMAGE | {"data": [1]}]}, "takes 192 elements, got 1"),
        ({"inputs": [IMAGE | {"data": ["a"]}]}, "inputs[0].data"),
        ({"inputs": [IMAGE | {"parameters": {"binary_data_size": 192}}]}, "binary_data_size"),
        ({"inputs": []}, "missing"),
    ],
)
def test_bad_bodies_are_refused_with_the_field(server: ServerProcess, body: Any, said: str) -> None:
    status, answer = post(f"{server.http}/v2/models/colours/infer", body)
    assert status == 400
    assert said in answer["error"]


def test_bad_length_header_is_refused(server: ServerProcess) -> None:
    header = {"Inference-Header-Content-Length": "999"}
    status, answer = post(f"{server.http}/v2/models/colours/infer", b"{}", **header)
    assert status == 400
    assert "Inference-Header-Content-Length" in answer["error"]


def test_unknown_model_is_404(client: triton.InferenceServerClient, server: ServerProcess) -> None:
    assert post(f"{server.http}/v2/models/nothing/infer", {})[0] == 404
    with pytest.raises(InferenceServerException, match="'nothing'"):
        client.get_model_config("nothing")


def test_models_are_not_loaded_by_call_without_explicit_control(server: ServerProcess) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    status, answer = post(f"{server.http}/v2/repository/models/colours/unload", {}, **token)
    assert status == 403
    assert "explicit" in answer["error"]


def test_cuda_memory_is_not_offered_with_a_reason(server: ServerProcess) -> None:
    status, answer = post(f"{server.http}/v2/cudasharedmemory/region/r/register", {})
    assert status == 501
    assert "GPU" in answer["error"]


def test_binary_array_of_numpy_type_survives(client: triton.InferenceServerClient) -> None:
    result = client.infer("regions", [image_input(binary=True)])
    assert result.as_numpy("mask").dtype == np.uint8
    assert (result.as_numpy("mask")[0] == 0).mean() > 0.95


def test_large_bodies_are_taken_up_to_the_message_limit(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    publish(tmp_path)
    server = start_server(tmp_path, "--max-message-mib", "3").wait_ready()
    url = f"{server.http}/v2/models/colours/infer"
    header = {"Inference-Header-Content-Length": "2"}
    status, answer = post(url, b"{}" + bytes(2 << 20), **header)
    assert status == 400
    assert "missing" in answer["error"]
    status, answer = post(url, b"{}" + bytes(4 << 20), **header)
    assert status == 413
    assert "more than 3145728 bytes" in answer["error"]


def test_slow_calls_are_logged_with_their_id(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    publish(tmp_path)
    server = start_server(tmp_path, "--slow-request-ms", "0.001").wait_ready()
    client = triton.InferenceServerClient(server.http.removeprefix("http://"))
    client.infer("colours", [image_input(binary=True)], request_id="the-slow-one")
    client.close()
    line = server.wait_for_log("slow call", request_id="the-slow-one")
    assert line["model"] == "colours"
    assert line["milliseconds"] >= 0


def test_debug_batches_explains_the_last_decisions(
    client: triton.InferenceServerClient, server: ServerProcess
) -> None:
    client.infer("points", [image_input(binary=True)])
    status, text = server.get(f"{server.http}/debug/batches")
    assert status == 200
    last = json.loads(text)["points/1"][-1]
    assert last["rows"] == 6
    assert last["took"] > 0
