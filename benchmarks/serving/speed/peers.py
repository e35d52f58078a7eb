"""The peers: NVIDIA Triton (Python backend) and MLServer with the same networks and engines."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from serving.repository.manifest import EvalTransform
from tests.peers.triton import ENVIRONMENT, ROOT, SYSTEM_PYTHON, install

# Packages that are needed beside the ones of tests/peers/triton.py.
_ENGINES = ("onnxruntime", "openvino", "opencv-python-headless<4.12")
MLSERVER = ROOT / ".tools" / "mlserver"
_MLSERVER_PACKAGES = (
    "mlserver==1.7.1", "uvloop==0.21.0", "onnxruntime", "openvino", "opencv-python-headless<4.12",
)  # fmt: skip
# Seconds for the server to start and load its models.
_START_SECONDS = 300.0

# Copied beside the models; see its docstring.
_RUNNER = Path(__file__).with_name("runner.py")

_TRITON_MODEL = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils
from runner import answers, load

SETTINGS = {settings}


class TritonPythonModel:
    def initialize(self, args):
        self.run = load(SETTINGS["engine"], SETTINGS["file"])

    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(r, "{input}").as_numpy() for r in requests]
        batch = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        found = answers(SETTINGS, self.run, batch)
        responses, begin = [], 0
        for array in arrays:
            share = found[begin:begin + len(array)]
            begin += len(array)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("{output}", share)]))
        return responses
"""

_MLSERVER_MODEL = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse, ResponseOutput
from runner import answers, load


class Model(MLModel):
    async def load(self):
        extra = self.settings.parameters.extra
        self.extra = extra
        self.run = load(extra["engine"], extra["file"])
        return True

    async def predict(self, payload):
        tensor = payload.inputs[0]
        extra = self.extra
        if extra["workload"] == "tensor":
            batch = NumpyCodec.decode_input(tensor)
        else:
            batch = np.array([bytes(item) if not isinstance(item, str) else item.encode()
                              for item in tensor.data.root], dtype=object)
        found = answers(extra, self.run, batch)
        if found.dtype == object:
            output = ResponseOutput(name=extra["output"], datatype="BYTES",
                                    shape=list(found.shape), data=found.reshape(-1).tolist())
        else:
            output = NumpyCodec.encode_output(extra["output"], found)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


@dataclass(frozen=True)
class PeerModel:
    """One model of a peer.

    engine: numpy, onnxruntime or openvino.
    file: ONNX; None for numpy.
    workload: tensor (uint8 image in, logits out), classify (image file in, five labels out),
        logits (image file in, logits out, of which Triton itself makes labels) or segment (image
        file in, mask PNG of its size out).
    transform: from the decoded image to the network's input.
    classes: their names, as many as logits.
    """

    name: str
    engine: str
    file: Path | None
    workload: str
    transform: EvalTransform
    classes: tuple[str, ...]

    @property
    def input(self) -> str:
        """Name of the input."""
        return "image" if self.workload == "tensor" else "encoded"

    @property
    def output(self) -> str:
        """Name of the output."""
        return {"classify": "labels", "segment": "mask"}.get(self.workload, "logits")

    def settings(self) -> dict[str, object]:
        """The settings that the peer's model code reads."""
        transform = self.transform
        return {
            "engine": self.engine,
            "file": str(self.file.resolve()) if self.file else "",
            "workload": self.workload,
            "resize": transform.resize,
            "crop": transform.crop,
            "filter": transform.filter,
            "output": self.output,
        }


def install_triton() -> None:
    """Installs the server, and the engines for its Python backend, into .tools/triton."""
    install()
    marker = ENVIRONMENT / "engines"
    if not marker.exists():
        pip = [
            str(ENVIRONMENT / "bin" / "pip"),
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run([*pip, *_ENGINES, "numpy<2"], check=True)
        marker.touch()


def install_mlserver() -> None:
    """Installs MLServer into .tools/mlserver."""
    marker = MLSERVER / "ready"
    if not marker.exists():
        subprocess.run([str(SYSTEM_PYTHON), "-m", "venv", str(MLSERVER)], check=True)
        pip = [str(MLSERVER / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *_MLSERVER_PACKAGES], check=True)
        marker.touch()


def write_triton(repository: Path, model: PeerModel) -> str:
    """Writes the model's folder; returns its config."""
    folder = repository / model.name / "1"
    folder.mkdir(parents=True)
    shutil.copy(_RUNNER, folder)
    code = _TRITON_MODEL.replace("{settings}", repr(model.settings()))
    code = code.replace("{input}", model.input).replace("{output}", model.output)
    # Triton puts the model's own folder on the path of its helper process.
    (folder / "model.py").write_text(code)
    height, width = model.transform.size
    if model.workload == "tensor":
        taken = f'name: "image" data_type: TYPE_UINT8 dims: [{height}, {width}, 3]'
    else:
        taken = 'name: "encoded" data_type: TYPE_STRING dims: [1]'
    given = f'name: "{model.output}" data_type: TYPE_STRING dims: [-1]'
    if model.output == "logits":
        (repository / model.name / "labels.txt").write_text("\n".join(model.classes) + "\n")
        given = (
            f'name: "logits" data_type: TYPE_FP32 dims: [{len(model.classes)}] '
            'label_filename: "labels.txt"'
        )
    config = (
        f'name: "{model.name}"\nbackend: "python"\nmax_batch_size: 32\n'
        f"input {{ {taken} }}\noutput {{ {given} }}\n"
        "dynamic_batching { }\ninstance_group { count: 1 kind: KIND_CPU }\n"
    )
    (repository / model.name / "config.pbtxt").write_text(config)
    return config


def write_mlserver(repository: Path, models: list[PeerModel]) -> None:
    """Writes the folders of models, with batches delayed by at most a millisecond, as Triton's."""
    repository.mkdir(parents=True)
    shutil.copy(_RUNNER, repository)
    (repository / "served.py").write_text(_MLSERVER_MODEL)
    for model in models:
        folder = repository / model.name
        folder.mkdir()
        shape = [-1, *model.transform.size, 3] if model.workload == "tensor" else [-1, 1]
        datatype = "UINT8" if model.workload == "tensor" else "BYTES"
        settings = {
            "name": model.name,
            "implementation": "served.Model",
            "max_batch_size": 32,
            "max_batch_time": 0.001,
            "inputs": [{"name": model.input, "datatype": datatype, "shape": shape}],
            "outputs": [{"name": model.output, "datatype": "BYTES", "shape": [-1, -1]}],
            "parameters": {"extra": model.settings()},
        }
        (folder / "model-settings.json").write_text(json.dumps(settings))


class MlServerProcess:
    """`mlserver start` on given ports (gRPC, HTTP, metrics)."""

    def __init__(self, repository: Path, ports: list[int], log: Path) -> None:
        grpc, http, metrics = ports
        self.url = f"127.0.0.1:{grpc}"
        self.http = f"http://127.0.0.1:{http}"
        (repository / "settings.json").write_text(
            json.dumps(
                {
                    "host": "127.0.0.1", "grpc_port": grpc, "http_port": http,
                    "metrics_port": metrics, "parallel_workers": 0, "debug": False,
                    "grpc_max_message_length": 1 << 26,
                }
            )
        )  # fmt: skip
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [str(MLSERVER / "bin" / "mlserver"), "start", str(repository)],
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": str(repository)},
                cwd=repository,
            )
        self._log = log

    def wait_ready(self) -> "MlServerProcess":
        """Returns when every model is ready. Raises RuntimeError with the log."""
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.http}/v2/health/ready", timeout=5):
                    return self
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise RuntimeError(f"MLServer: {error}\n{self._log.read_text()}") from error
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends the server."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


if __name__ == "__main__":
    install_triton()
    install_mlserver()
    sys.exit(0)
