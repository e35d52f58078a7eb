"""The peers: NVIDIA Triton (Python backend) and MLServer with the same networks and engines."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.peers.triton import ENVIRONMENT, ROOT, SYSTEM_PYTHON, install

# Packages that are needed beside the ones of tests/peers/triton.py.
_ENGINES = ("onnxruntime", "openvino", "opencv-python-headless<4.12")
MLSERVER = ROOT / ".tools" / "mlserver"
_MLSERVER_PACKAGES = (
    "mlserver==1.7.1", "uvloop==0.21.0", "onnxruntime", "openvino", "opencv-python-headless<4.12",
)  # fmt: skip
# Seconds for the server to start and load its models.
_START_SECONDS = 300.0

# Module that both peers run on a batch. The settings are those of our own engines.
_RUNNER = '''
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

CORES = len(os.sched_getaffinity(0))
POOL = ThreadPoolExecutor(CORES)


def load(engine, file):
    """A function from uint8 [N, H, W, 3] to the first output."""
    if engine == "numpy":
        return lambda images: images[:, 0, 0].astype(np.float32)
    if engine == "onnxruntime":
        import onnxruntime
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = CORES
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"image": images})[0]
    import openvino
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    settings |= {"INFERENCE_NUM_THREADS": CORES, "ENABLE_CPU_PINNING": False}
    request = openvino.Core().compile_model(file, "CPU", settings).create_infer_request()

    def run(images):
        request.infer({"image": images}, share_inputs=True)
        return np.array(request.get_output_tensor(0).data)
    return run


def decode(data, height, width):
    import cv2
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if height == width:
        side = height * 8 // 7
        rows, columns = image.shape[:2]
        scale = side / min(rows, columns)
        size = (max(side, round(columns * scale)), max(side, round(rows * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        top, left = (size[1] - height) // 2, (size[0] - width) // 2
        return image[top:top + height, left:left + width]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def decode_all(files, height, width):
    return np.stack(list(POOL.map(lambda data: decode(data, height, width), files)))


def labels(row):
    """The best five as the classification extension writes them."""
    best = np.argsort(-row)[:5]
    return [f"{row[i]:f}:{i}:class {i}".encode() for i in best]


def png(mask):
    import cv2
    return cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def answers(workload, run, inputs, height, width):
    """inputs: arrays of one batch; for images, BYTES."""
    if workload == "tensor":
        return run(inputs)
    found = run(decode_all(inputs.reshape(-1), height, width))
    if workload == "classify":
        return np.array([labels(row) for row in found], dtype=object)
    return np.array([[png(mask)] for mask in found], dtype=object)
'''

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
        found = answers(
            SETTINGS["workload"], self.run, batch, SETTINGS["height"], SETTINGS["width"]
        )
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
        found = answers(extra["workload"], self.run, batch, extra["height"], extra["width"])
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
    workload: tensor (uint8 image in, logits out), classify (image file in, five labels out) or
        segment (image file in, mask PNG out).
    outputs: number of logits.
    """

    name: str
    engine: str
    file: Path | None
    workload: str
    height: int
    width: int
    outputs: int

    @property
    def input(self) -> str:
        """Name of the input."""
        return "image" if self.workload == "tensor" else "encoded"

    @property
    def output(self) -> str:
        """Name of the output."""
        return {"tensor": "logits", "classify": "labels", "segment": "mask"}[self.workload]

    def settings(self) -> dict[str, object]:
        """The settings that the peer's model code reads."""
        return {
            "engine": self.engine,
            "file": str(self.file.resolve()) if self.file else "",
            "workload": self.workload,
            "height": self.height,
            "width": self.width,
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
    (folder / "runner.py").write_text(_RUNNER)
    code = _TRITON_MODEL.replace("{settings}", repr(model.settings()))
    code = code.replace("{input}", model.input).replace("{output}", model.output)
    # Triton puts the model's own folder on the path of its helper process.
    (folder / "model.py").write_text(code)
    if model.workload == "tensor":
        tensors = (
            f'input {{ name: "image" data_type: TYPE_UINT8 '
            f"dims: [{model.height}, {model.width}, 3] }}\n"
            f'output {{ name: "logits" data_type: TYPE_FP32 dims: [{model.outputs}] }}\n'
        )
    else:
        tensors = (
            'input { name: "encoded" data_type: TYPE_STRING dims: [1] }\n'
            f'output {{ name: "{model.output}" data_type: TYPE_STRING dims: [-1] }}\n'
        )
    config = (
        f'name: "{model.name}"\nbackend: "python"\nmax_batch_size: 32\n{tensors}'
        "dynamic_batching { }\ninstance_group { count: 1 kind: KIND_CPU }\n"
    )
    (repository / model.name / "config.pbtxt").write_text(config)
    return config


def write_mlserver(repository: Path, models: list[PeerModel]) -> None:
    """Writes the folders of models, with batches delayed by at most a millisecond, as Triton's."""
    repository.mkdir(parents=True)
    (repository / "runner.py").write_text(_RUNNER)
    (repository / "served.py").write_text(_MLSERVER_MODEL)
    for model in models:
        folder = repository / model.name
        folder.mkdir()
        shape = [-1, model.height, model.width, 3] if model.workload == "tensor" else [-1, 1]
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
