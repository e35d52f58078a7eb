"""NVIDIA Triton itself, to compare with: sets it up, and starts it on models in Python.

    python tests/peers/triton.py

installs it into .tools/triton, where the tests of this folder look for it: the server's binary and
its Python backend are inside a wheel, and need the system's Python 3.11, whose library they link.
Nothing of the project depends on it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".tools" / "triton"
SYSTEM_PYTHON = Path("/usr/bin/python3.11")
REQUIREMENTS = ("nvidia-pytriton==0.7.0", "numpy<2", "onnxruntime", "setuptools<81")
START_SECONDS = 60.0

_PACKAGES = ENVIRONMENT / "lib/python3.11/site-packages"
_SERVER = _PACKAGES / "pytriton/tritonserver"
_STUB = "triton_python_backend_stub"

# Stands in for the ONNX Runtime backend, which the wheel does not have: it loads the file that the
# config names, and no other.
ONNX_BACKEND = """
import json
import os

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        named = config.get("default_model_filename", "")
        file = os.path.join(folder, named if named.endswith(".onnx") else "model.onnx")
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def execute(self, requests):
        answers = []
        for request in requests:
            given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            found = zip(self.names, self.session.run(self.names, given))
            tensors = [pb_utils.Tensor(name, array) for name, array in found]
            answers.append(pb_utils.InferenceResponse(tensors))
        return answers
"""

# Gives back for each input in_X what it holds as out_X.
IDENTITY = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(tensor.name().replace("in_", "out_"), tensor.as_numpy())
                    for tensor in request.inputs()
                ]
            )
            for request in requests
        ]
"""

# The classifier of tests.support.published with a gain of 255 / 16.
COLOURS = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
            logits = (image.astype(np.float32) / 16).mean(axis=(1, 2), dtype=np.float32)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("logits", logits)]))
        return answers
"""


def install() -> None:
    """Makes the environment, unless it is there. Raises what its steps raise."""
    if missing() is None:
        return
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    ignored = ENVIRONMENT.parent / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n")
    subprocess.run([str(SYSTEM_PYTHON), "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    backend = _SERVER / "backends" / "python"
    shutil.copy(_SERVER / "python_backend_stubs" / "3.11" / _STUB, backend / _STUB)


def missing() -> str | None:
    """Why it cannot be started here; None where it can."""
    needed = (
        _SERVER / "bin" / "tritonserver",
        _SERVER / "backends" / "python" / _STUB,
        _PACKAGES / "onnxruntime",
    )
    for file in needed:
        if not file.exists():
            return f"no {file.relative_to(ROOT)}: python tests/peers/triton.py installs it"
    return None


def write_python_model(repository: Path, name: str, code: str, config: str) -> None:
    """A model folder for the Python backend."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(code)
    (repository / name / "config.pbtxt").write_text(f'backend: "python"\n{config}')


def write_onnx_backend(folder: Path) -> Path:
    """A folder of backends that has one for ONNX files, in Python."""
    (folder / "onnxruntime").mkdir(parents=True)
    (folder / "onnxruntime" / "model.py").write_text(ONNX_BACKEND)
    (folder / "python").symlink_to(_SERVER / "backends" / "python")
    return folder


class TritonProcess:
    """`tritonserver` with explicit model control on given ports (gRPC, HTTP, metrics), which loads
    `models` at its start. `backends` is the folder of its backends."""

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        ports: Sequence[int],
        log: Path,
        backends: Path = _SERVER / "backends",
    ) -> None:
        grpc, http, metrics = ports
        self.url = f"127.0.0.1:{grpc}"
        self.http = f"http://127.0.0.1:{http}"
        self.log = log
        command = [str(_SERVER / "bin" / "tritonserver"), f"--model-repository={repository}"]
        command += [f"--backend-directory={backends}", "--model-control-mode=explicit"]
        command += [f"--load-model={model}" for model in models]
        command += [f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"]
        command += ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1"]
        # The backend's helper finds its interpreter, and with it numpy, by PATH.
        path = f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}"
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, "PATH": path}
            )

    def wait_ready(self) -> "TritonProcess":
        """Returns when it answers. Raises RuntimeError with its log where it does not."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.http}/v2/health/live", timeout=5):
                    return self
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(self.log.read_text()[-4000:]) from None
            time.sleep(0.05)  # between two looks at a port that no event tells of

    def load(self, model: str) -> str:
        """What is wrong with a model; empty where it was loaded."""
        request = urllib.request.Request(
            f"{self.http}/v2/repository/models/{model}/load", data=b"{}", method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=START_SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            with error:
                return str(json.loads(error.read())["error"])

    def stop(self) -> None:
        """Ends it; its backend's helpers with it."""
        self.process.terminate()
        try:
            self.process.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


if __name__ == "__main__":
    install()
    sys.exit(missing())
