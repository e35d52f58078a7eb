"""Against other servers of the Open Inference Protocol, where they are installed.

MLSERVER and TRITONSERVER name their programs where PATH does not have them. Triton is the one in
the wheel of nvidia-pytriton, with its Python backend.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peer

MLSERVER_MODEL = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Mean(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("y", rows.mean(axis=(1, 2)).astype("float32"))
        return InferenceResponse(model_name=self.name, outputs=[output])
"""

TRITON_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            mean = pb_utils.Tensor("y", rows.mean(axis=(1, 2)).astype(np.float32))
            answers.append(pb_utils.InferenceResponse([mean]))
        return answers
"""
TRITON_CONFIG = """
name: "mean"
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_UINT8 dims: [4, 4, 3] }
output { name: "y" data_type: TYPE_FP32 dims: [3] }
dynamic_batching { }
"""


def program(name: str) -> str:
    """Where a server's program is; skips the test where it is not."""
    found = os.environ.get(name.upper()) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed ({name.upper()}=PATH names one elsewhere)")
    return found


def free_ports() -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running(command: list[str], ready: str, log: Path, **environment: str) -> Iterator[None]:
    """Runs a server from when `ready` answers."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        end = time.monotonic() + 45
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(ready, timeout=2).close()
                break
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.3)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


def measured(url: str, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        [
            sys.executable, "-m", "convserve", "loadtest", "run", "--url", url, "--model", "mean",
            "--concurrency", "4", "--duration", "2", "--warmup", "0.5", "--json", *more,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    phase: dict[str, Any] = json.loads(done.stdout)["phases"][0]
    assert phase["errors"] == {}
    assert phase["answered"] > 20
    return phase


def test_mlserver_over_grpc_and_rest(tmp_path: Path) -> None:
    mlserver = program("mlserver")
    grpc_port, http_port, metrics_port = free_ports()
    (tmp_path / "mean.py").write_text(MLSERVER_MODEL)
    settings = {
        "name": "mean",
        "implementation": "mean.Mean",
        "inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, 4, 4, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    server = {
        "host": "127.0.0.1",
        "grpc_port": grpc_port,
        "http_port": http_port,
        "metrics_port": metrics_port,
        "parallel_workers": 0,
    }
    (tmp_path / "settings.json").write_text(json.dumps(server))
    ready = f"http://127.0.0.1:{http_port}/v2/models/mean/ready"
    command = [mlserver, "start", str(tmp_path)]
    # Its gRPC stubs and ours are in other processes, so that both may be named alike.
    with running(command, ready, tmp_path / "log", PYTHONPATH=str(tmp_path)):
        measured(f"127.0.0.1:{grpc_port}")
        measured(f"http://127.0.0.1:{http_port}")


def test_triton_over_grpc_streams_and_rest(tmp_path: Path) -> None:
    triton = Path(program("tritonserver"))
    home = triton.parent.parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    model = tmp_path / "models" / "mean"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(TRITON_MODEL)
    (model / "config.pbtxt").write_text(TRITON_CONFIG)
    # The backend's stub is made for one version of Python; a model may bring its own.
    shutil.copy(home / "python_backend_stubs" / version / "triton_python_backend_stub", model)
    grpc_port, http_port, metrics_port = free_ports()
    command = [
        str(triton), f"--model-repository={model.parent}", f"--backend-directory={home}/backends",
        f"--grpc-port={grpc_port}", f"--http-port={http_port}", f"--metrics-port={metrics_port}",
        "--grpc-address=127.0.0.1", "--http-address=127.0.0.1",
    ]  # fmt: skip
    # Its Python is the one that stands first in PATH: that of the wheel's environment.
    path = f"{home.parents[4] / 'bin'}{os.pathsep}{os.environ['PATH']}"
    ready = f"http://127.0.0.1:{http_port}/v2/models/mean/ready"
    # A stub that has left its place does not find the wheel's libraries by itself.
    libraries = str(home.parents[1] / "nvidia_pytriton.libs")
    with running(command, ready, tmp_path / "log", PATH=path, LD_LIBRARY_PATH=libraries):
        metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        unary = measured(f"127.0.0.1:{grpc_port}", "--metrics-url", metrics)
        assert unary["batch_size_from"] == "statistics"
        assert unary["mean_batch_size"] >= 1
        assert unary["server"]["metrics"]["executions"] > 0
        measured(f"127.0.0.1:{grpc_port}", "--streams", "1")
        measured(f"http://127.0.0.1:{http_port}")
