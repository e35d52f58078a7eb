"""Repositories as people have them: folders that are none, files replaced in place, odd models."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton

from tests.support.detector import write_detector
from tests.support.process import ServerProcess
from tests.support.published import graph, publish

Start = Callable[..., ServerProcess]
RED = np.zeros((1, 8, 8, 3), np.uint8)
RED[..., 0] = 255


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[ServerProcess] = []

    def start(repository: Path, *flags: str) -> ServerProcess:
        running.append(ServerProcess(repository, *flags, cache=tmp_path / "cache"))
        return running[-1]

    yield start
    for server in running:
        server.kill()


def logits(server: ServerProcess, model: str = "plain") -> list[float]:
    image = triton.InferInput("image", [1, 8, 8, 3], "UINT8")
    image.set_data_from_numpy(RED)
    with triton.InferenceServerClient(server.url) as client:
        answer = client.infer(model, [image]).as_numpy("logits")
    values: list[float] = answer[0].tolist()
    return values


def replace(path: Path, content: bytes) -> None:
    """Another file of its size and time, as a copy that keeps times leaves it."""
    stat = path.stat()
    assert stat.st_size == len(content)
    other = path.with_name(".other")
    other.write_bytes(content)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


def plain(repository: Path, gain: float) -> Path:
    folder = repository / "plain" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph("classification", gain), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_poll_follows_a_file_replaced_by_one_of_its_size_and_time(
    engine: str, tmp_path: Path, start: Start
) -> None:
    file = plain(tmp_path / "models", gain=10.0)
    config = tmp_path / "models" / "plain" / "config.pbtxt"
    config.write_text("max_batch_size: 4\n")
    flags = ("--model-control", "poll", "--poll-seconds", "0.1", "--allow-ungated")
    server = start(tmp_path / "models", *flags, "--engine", engine).wait_ready()
    assert logits(server)[0] == pytest.approx(10.0)
    replace(file, graph("classification", 20.0).SerializeToString())
    ready = [line for line in server.log if line["message"] == "model ready"]
    assert len(ready) == 1
    server.wait_for_log("repository changed")
    while len([line for line in server.log if line["message"] == "model ready"]) < 2:
        assert server.process.poll() is None
    assert logits(server)[0] == pytest.approx(20.0)
    replace(config, b"max_batch_size: 2\n")
    while len([line for line in server.log if line["message"] == "model ready"]) < 3:
        assert server.process.poll() is None
    with triton.InferenceServerClient(server.url) as client:
        assert client.get_model_config("plain").config.max_batch_size == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("control", ["none", "poll"])
def test_a_folder_that_the_server_may_not_read_harms_no_model(
    control: str, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "models")
    (tmp_path / "models" / "lost+found").mkdir(mode=0o700)
    os.chown(tmp_path / "models" / "lost+found", 10001, 10001)
    # Root without its power over other users' files reads as little as any user.
    wrapper = tmp_path / "python"
    drop = "--bounding-set=-dac_override,-dac_read_search"
    wrapper.write_text(f'#!/bin/sh\nexec setpriv {drop} {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    server = start(tmp_path / "models", "--model-control", control).wait_ready()
    assert "Permission denied" in server.wait_for_log("model not loaded")["reason"]
    assert logits(server, "colours")
    _, text = server.get(f"{server.http}/readyz")
    [line] = [line for line in text.splitlines()[1:] if not line.startswith("process ")]
    assert line.startswith("lost+found: UNAVAILABLE")
    assert "Permission denied" in line


def test_a_folder_that_holds_no_model_keeps_nobody_waiting(tmp_path: Path, start: Start) -> None:
    publish(tmp_path / "models")
    (tmp_path / "models" / "lost+found").mkdir()
    server = start(tmp_path / "models", "--strict-readiness").wait_ready()
    assert "lost+found" in server.get(f"{server.http}/readyz")[1]


def test_a_detector_without_a_config_serves_and_all_lines_of_the_log_are_records(
    tmp_path: Path, start: Start
) -> None:
    write_detector(tmp_path / "models" / "yolo" / "1" / "model.onnx")
    (tmp_path / "models" / "broken" / "1").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "1" / "model.onnx").write_bytes(b"junk" * 100)
    (tmp_path / "models" / "broken" / "config.pbtxt").write_text("max_batch_size: 8\n")
    server = start(tmp_path / "models", "--allow-ungated").wait_ready()
    completed = server.wait_for_log("config completed")["fields"]
    assert completed == ["platform", "max_batch_size", "input", "output"]
    with triton.InferenceServerClient(server.url) as client:
        for height, width in ((64, 64), (640, 320)):
            images = np.zeros((2, 3, height, width), np.float32)
            given = triton.InferInput("images", list(images.shape), "FP32")
            given.set_data_from_numpy(images)
            boxes = client.infer("yolo", [given]).as_numpy("boxes")
            assert boxes.shape == (2, 6, height, width)
        given = triton.InferInput("images", [1, 3, 33, 33], "FP32")
        given.set_data_from_numpy(np.zeros((1, 3, 33, 33), np.float32))
        with pytest.raises(triton.InferenceServerException) as failure:
            client.infer("yolo", [given])
    assert "\n" not in failure.value.message()
    _, text = server.get(f"{server.http}/readyz")
    [reason] = [line for line in text.splitlines() if line.startswith("broken")]
    assert len(reason.removeprefix("broken/1: UNAVAILABLE ")) <= 300
    assert server.terminate() == 0
    assert all({"time", "level", "logger"} <= line.keys() for line in server.log)
    assert any(line["logger"] == "onnxruntime" for line in server.log)
