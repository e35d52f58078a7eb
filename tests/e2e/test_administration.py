"""Shared memory, log and trace settings, and load overrides, by tritonclient over both wires: over
gRPC on the admin socket, over HTTP with the admin token."""

import base64
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import InferenceServerClientPlugin
from tritonclient.utils import InferenceServerException

from tests.support.process import TOKEN, ServerProcess, token_flags
from tests.support.published import graph, publish, samples

StartServer = Callable[..., ServerProcess]
BEARER = {"Authorization": f"Bearer {TOKEN}"}
WIRES = {"grpc": over_grpc, "http": over_http}


@pytest.fixture(params=list(WIRES))
def wire(request: pytest.FixtureRequest) -> Any:
    """tritonclient.grpc, then tritonclient.http."""
    return WIRES[request.param]


class _Token(InferenceServerClientPlugin):  # type: ignore[misc]
    """Sends the token with every call."""

    def __call__(self, request: Any) -> None:
        request.headers.update(BEARER)


def connect(wire: Any, server: ServerProcess) -> Any:
    """A client that is admin."""
    if wire is over_grpc:
        return wire.InferenceServerClient(server.admin)
    client = wire.InferenceServerClient(server.http.removeprefix("http://"))
    client.register_plugin(_Token())
    return client


@pytest.fixture
def client(wire: Any, server: ServerProcess) -> Iterator[Any]:
    client = connect(wire, server)
    yield client
    client.close()


def post(url: str, body: str) -> tuple[int, str]:
    """Status and text of the answer to a POST with the token."""
    request = urllib.request.Request(url, body.encode(), BEARER)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def logits_of(wire: Any, client: Any, model: str = "colours") -> np.ndarray[Any, Any]:
    tensor = wire.InferInput("image", [6, 8, 8, 3], "UINT8")
    tensor.set_data_from_numpy(samples())
    answer: np.ndarray[Any, Any] = client.infer(model, [tensor]).as_numpy("logits")
    return answer


def test_tensors_travel_through_shared_memory(wire: Any, client: Any) -> None:
    images = samples()
    expected = logits_of(wire, client)
    handle = shm.create_shared_memory_region("tensors", "/convserve_test", images.nbytes + 72)
    try:
        shm.set_shared_memory_region(handle, [images])
        client.register_system_shared_memory("tensors", "/convserve_test", images.nbytes + 72)
        status = client.get_system_shared_memory_status()
        assert "convserve_test" in str(status)
        tensor = wire.InferInput("image", list(images.shape), "UINT8")
        tensor.set_shared_memory("tensors", images.nbytes)
        wanted = wire.InferRequestedOutput("logits")
        wanted.set_shared_memory("tensors", 72, offset=images.nbytes)
        result = client.infer("colours", [tensor], outputs=[wanted])
        assert result.get_output("logits") is not None
        found = shm.get_contents_as_numpy(handle, np.float32, [6, 3], offset=images.nbytes)
        assert found == pytest.approx(expected)
        client.unregister_system_shared_memory("tensors")
        with pytest.raises(InferenceServerException, match="no shared memory region 'tensors'"):
            client.infer("colours", [tensor])
    finally:
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(handle)


@pytest.mark.parametrize(
    ("key", "offset", "size", "said"),
    [
        ("/convserve_none", 0, 4, "cannot be opened"),
        ("/../etc/passwd", 0, 4, "expected the name of an object"),
        ("/another_object", 0, 4, "from 'convserve' on"),
        ("/convserve_small", 60, 8, "the object '/convserve_small' has 64"),
    ],
)
def test_regions_out_of_bounds_are_refused(
    client: Any, key: str, offset: int, size: int, said: str
) -> None:
    handle = shm.create_shared_memory_region("small", "/convserve_small", 64)
    try:
        with pytest.raises(InferenceServerException) as failure:
            client.register_system_shared_memory("r", key, size, offset=offset)
        assert said in failure.value.message()
    finally:
        shm.destroy_shared_memory_region(handle)


def test_region_whose_object_was_cut_short_is_refused_and_the_server_lives(
    wire: Any, client: Any, server: ServerProcess
) -> None:
    images = samples()
    handle = shm.create_shared_memory_region("cut", "/convserve_cut", 8192)
    try:
        client.register_system_shared_memory("cut", "/convserve_cut", 8192)
        os.truncate("/dev/shm/convserve_cut", 100)
        tensor = wire.InferInput("image", list(images.shape), "UINT8")
        tensor.set_shared_memory("cut", images.nbytes, offset=4096)
        with pytest.raises(InferenceServerException, match="which was cut to 100") as failure:
            client.infer("colours", [tensor])
        assert failure.value.status() in ("StatusCode.INVALID_ARGUMENT", "400")
        tensor.set_data_from_numpy(images)
        wanted = wire.InferRequestedOutput("logits")
        wanted.set_shared_memory("cut", 72, offset=4096)
        with pytest.raises(InferenceServerException, match="which was cut to 100"):
            client.infer("colours", [tensor], outputs=[wanted])
        assert logits_of(wire, client).shape == (6, 3)
        assert server.process.poll() is None
    finally:
        client.unregister_system_shared_memory("cut")
        shm.destroy_shared_memory_region(handle)


@pytest.mark.parametrize(
    ("offset", "size"), [(-4096, 64), (-(10**30), 64), (10**30, 64), (0, -64), (0, 10**30)]
)
def test_region_of_impossible_bytes_is_refused_over_rest(
    offset: int, size: int, server: ServerProcess
) -> None:
    handle = shm.create_shared_memory_region("odd", "/convserve_odd", 64)
    try:
        body = json.dumps({"key": "/convserve_odd", "offset": offset, "byte_size": size})
        status, text = post(f"{server.http}/v2/systemsharedmemory/region/odd/register", body)
        assert status == 400
        assert "shared memory region 'odd'" in json.loads(text)["error"]
        client = connect(over_http, server)
        assert not client.get_system_shared_memory_status()
        client.close()
    finally:
        shm.destroy_shared_memory_region(handle)


@pytest.mark.parametrize(("offset", "size"), [(2**63, 64), (2**64 - 1, 1), (0, 2**64 - 1)])
def test_region_of_impossible_bytes_is_refused_over_grpc(
    offset: int, size: int, server: ServerProcess
) -> None:
    handle = shm.create_shared_memory_region("odd", "/convserve_odd", 64)
    client = connect(over_grpc, server)
    try:
        with pytest.raises(InferenceServerException, match="the object '/convserve_odd' has 64"):
            client.register_system_shared_memory("odd", "/convserve_odd", size, offset=offset)
        assert not client.get_system_shared_memory_status().regions
    finally:
        client.close()
        shm.destroy_shared_memory_region(handle)


def test_output_that_does_not_fit_its_place_is_refused(wire: Any, client: Any) -> None:
    handle = shm.create_shared_memory_region("tight", "/convserve_tight", 16)
    try:
        client.register_system_shared_memory("tight", "/convserve_tight", 16)
        tensor = wire.InferInput("image", [6, 8, 8, 3], "UINT8")
        tensor.set_data_from_numpy(samples())
        wanted = wire.InferRequestedOutput("logits")
        wanted.set_shared_memory("tight", 16)
        with pytest.raises(InferenceServerException, match="output takes 72 bytes"):
            client.infer("colours", [tensor], outputs=[wanted])
    finally:
        client.unregister_system_shared_memory("tight")
        shm.destroy_shared_memory_region(handle)


def test_cuda_memory_is_unimplemented_with_a_reason(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="no engine on a GPU"):
        client.register_cuda_shared_memory("r", base64.b64encode(b"handle"), 0, 16)
    assert not json.loads(
        json.dumps(
            client.get_cuda_shared_memory_status(as_json=True)
            if hasattr(client, "start_stream")
            else client.get_cuda_shared_memory_status()
        )
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder for files."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def writing(tmp_path: Path, files: Path, start_server: StartServer) -> ServerProcess:
    """A server that writes into `files`."""
    publish(tmp_path / "models")
    flags = (*token_flags(tmp_path), "--files-dir", str(files))
    return start_server(tmp_path / "models", *flags).wait_ready()


def test_log_settings_are_read_changed_and_checked(
    wire: Any, files: Path, writing: ServerProcess
) -> None:
    client = connect(wire, writing)
    client.update_log_settings({"log_file": "server.log", "log_verbose_level": 1})
    assert "server.log" in str(client.get_log_settings())
    with pytest.raises(InferenceServerException, match="log_vebose_level"):
        client.update_log_settings({"log_vebose_level": 1})
    with pytest.raises(InferenceServerException, match="expected a plain name in --files-dir"):
        client.update_log_settings({"log_file": "/no/such/folder/file"})
    os.mkfifo(files / "pipe")
    with pytest.raises(InferenceServerException, match="pipe cannot be written"):
        client.update_log_settings({"log_file": "pipe"})
    client.update_log_settings({"log_error": False, "log_warning": False, "log_verbose_level": 0})
    assert "server.log" not in writing.get(f"{writing.http}/v2/logging")[1]
    client.close()
    assert writing.terminate() == 0
    lines = [
        json.loads(line)["message"] for line in (files / "server.log").read_text().splitlines()
    ]
    assert "draining" in lines


def test_traces_are_written_in_tritons_format(
    wire: Any, files: Path, writing: ServerProcess
) -> None:
    client = connect(wire, writing)
    client.update_trace_settings(
        settings={
            "trace_file": "trace.json",
            "trace_level": ["TIMESTAMPS"],
            "trace_rate": "2",
            "trace_count": "3",
        }
    )
    for _ in range(10):
        logits_of(wire, client)
    client.update_trace_settings(settings={"trace_rate": "1"})  # waits for the file
    traces = json.loads((files / "trace.json").read_text())
    assert len(traces) == 3
    stamps = {stamp["name"]: stamp["ns"] for stamp in traces[0]["timestamps"]}
    assert stamps["REQUEST_START"] <= stamps["QUEUE_START"] <= stamps["COMPUTE_START"]
    assert stamps["COMPUTE_START"] < stamps["COMPUTE_END"]
    assert traces[0]["model_name"] == "colours"
    assert "trace.json" in str(client.get_trace_settings())
    assert "trace.json" not in writing.get(f"{writing.http}/v2/trace/setting")[1]
    with pytest.raises(InferenceServerException, match="trace_rate"):
        client.update_trace_settings(settings={"trace_rate": "none"})
    client.close()


def test_traces_and_logs_that_cannot_be_written_harm_no_call(
    wire: Any, files: Path, writing: ServerProcess
) -> None:
    client = connect(wire, writing)
    client.update_log_settings({"log_file": "log", "log_verbose_level": 1})
    client.update_trace_settings(
        settings={
            "trace_file": "t",
            "trace_level": ["TIMESTAMPS"],
            "trace_rate": "1",
            "log_frequency": "1",
        }
    )
    shutil.rmtree(files)
    for _ in range(4):
        assert logits_of(wire, client).shape == (6, 3)
    client.update_trace_settings(settings={"trace_level": ["OFF"], "trace_file": "t"})
    assert writing.metric('convserve_write_failures_total{kind="trace"}') == 4
    writing.wait_for_log("file cannot be written", kind="trace")
    assert logits_of(wire, client).shape == (6, 3)
    client.close()
    assert writing.terminate() == 0
    said = [line["kind"] for line in writing.log if line["message"] == "file cannot be written"]
    assert sorted(said) == ["log", "trace"]


def test_load_with_another_config_and_back(
    wire: Any, tmp_path: Path, cache: Path, start_server: StartServer
) -> None:
    publish(tmp_path)
    server = start_server(tmp_path, "--model-control", "explicit", *token_flags(cache))
    client = connect(wire, server)
    client.load_model("colours")
    assert logits_of(wire, client).shape == (6, 3)
    changed = {
        "platform": "onnxruntime_onnx",
        "max_batch_size": 2,
        "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": [8, 8, 3]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [3]}],
    }
    client.load_model("colours", config=json.dumps(changed))
    with pytest.raises(InferenceServerException, match="expected 1 to 2 rows"):
        logits_of(wire, client)
    with pytest.raises(InferenceServerException, match="config"):
        client.load_model("colours", config="{not json")
    client.load_model("colours")
    assert logits_of(wire, client).shape == (6, 3)
    client.close()


def test_load_with_files_that_no_repository_has(
    wire: Any, tmp_path: Path, cache: Path, start_server: StartServer
) -> None:
    flags = ("--model-control", "explicit", "--allow-ungated", *token_flags(cache))
    server = start_server(tmp_path, *flags)
    client = connect(wire, server)
    described = {
        "max_batch_size": 8,
        "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": [8, 8, 3]}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [3]}],
    }
    content = graph("classification", gain=5.0).SerializeToString()
    client.load_model("sent", config=json.dumps(described), files={"file:1/model.onnx": content})
    expected = samples().mean(axis=(1, 2)) * 5 / 255
    assert logits_of(wire, client, "sent") == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InferenceServerException, match=r"file:<version>/<name>"):
        client.load_model("sent", config=json.dumps(described), files={"file:1/../../x": content})
    client.close()
