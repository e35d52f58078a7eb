"""Loads beside a model that serves: however the loader process ends, nothing else is harmed."""

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.support.deadly_runtime import deadly_path, doom
from tests.support.process import START_SECONDS, ServerProcess
from tests.support.published import publish


@pytest.fixture(params=["--no-engine-process", "--engine-process"])
def beside(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> Iterator["Beside"]:
    publish(tmp_path / "models")
    server = ServerProcess(
        tmp_path / "models",
        *("--model-control", "explicit", "--engine", "onnxruntime", "--allow-ungated"),
        request.param,
        cache=cache,
        env={**os.environ, "PYTHONPATH": deadly_path(tmp_path / "lib")},
    )
    with ThreadPoolExecutor(1) as thread:
        found = Beside(server, tmp_path / "models", thread)
        yield found
        server.kill()
        found.client.close()


class Beside:
    """A server of the model `colours`, and the fates of its second version."""

    def __init__(self, server: ServerProcess, models: Path, thread: ThreadPoolExecutor) -> None:
        self.server = server
        self._models = models
        self._thread = thread
        self._seen = 0
        self.client = triton.InferenceServerClient(server.admin)
        self.client.load_model("colours")

    def answers(self) -> bool:
        """Whether the first version answers rightly."""
        image = triton.InferInput("image", [1, 8, 8, 3], "UINT8")
        image.set_data_from_numpy(np.full((1, 8, 8, 3), 100, np.uint8))
        with triton.InferenceServerClient(self.server.url) as client:
            logits = client.infer("colours", [image], model_version="1").as_numpy("logits")
        return logits is not None and bool(np.allclose(logits, 100 * 10 / 255))

    def load(self, fate: str = "") -> "Future[None]":
        """Begins to load a second version, which meets its fate."""
        shutil.rmtree(self._models / "colours" / "2", ignore_errors=True)
        file = publish(self._models, version=2) / "model.onnx"
        (file.parent / "manifest.json").unlink()
        if fate:
            doom(file, fate)  # type: ignore[arg-type]
        return self._thread.submit(self.client.load_model, "colours")

    def pid(self) -> int:
        """The next loader process that the log names."""
        end = time.monotonic() + START_SECONDS
        while True:
            lines = [line for line in self.server.log if line["message"] == "helper process"]
            if len(lines) > self._seen:
                self._seen += 1
                return int(lines[self._seen - 1]["pid"])
            assert time.monotonic() < end, self.server.log
            time.sleep(0.01)  # the log tells nobody of a new line by number


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + START_SECONDS
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "the loader process outlives its server"
        time.sleep(0.01)  # between two looks at a process of somebody else


def test_what_serves_outlives_every_end_of_a_loader_process(beside: Beside) -> None:
    with pytest.raises(InferenceServerException, match=r"loader process failed.*SIGSEGV: last"):
        beside.load("crash").result(START_SECONDS)
    beside.pid()
    assert beside.answers()
    loading = beside.load("hang")
    os.kill(beside.pid(), 9)
    with pytest.raises(InferenceServerException, match=r"loader process failed.*SIGKILL"):
        loading.result(START_SECONDS)
    assert beside.answers()
    beside.load().result(START_SECONDS)
    beside.server.wait_for_log("model ready", model="colours", variant="default")
    assert all(set(line) > {"time", "level", "logger"} for line in beside.server.log)


def test_a_stop_ends_a_load_at_once(beside: Beside) -> None:
    loading = beside.load("hang")
    pid = beside.pid()
    assert beside.server.terminate() == 0
    assert not Path(f"/proc/{pid}").exists()
    assert isinstance(loading.exception(START_SECONDS), InferenceServerException)


def test_a_loader_process_ends_with_its_server(beside: Beside) -> None:
    loading = beside.load("hang")
    pid = beside.pid()
    beside.server.process.kill()
    wait_until_gone(pid)
    assert isinstance(loading.exception(START_SECONDS), InferenceServerException)
