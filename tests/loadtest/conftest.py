"""Servers to put under load: `convserve serve` as a process, and a vision server made for tests."""

import asyncio
import contextlib
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import onnx
import pytest
from onnx import TensorProto, helper

from protos.gen import grpc_service_pb2 as oip
from protos.gen import grpc_service_pb2_grpc, vision_pb2_grpc
from protos.gen import vision_pb2 as vision
from tests.support.published import publish

Returned = TypeVar("Returned")


class _VirtualSelector(selectors.SelectSelector):
    """Instead of waiting it moves the clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everything waits, and nothing is to come")
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only by waiting."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


@pytest.fixture
def on_virtual_clock() -> Callable[[Coroutine[Any, Any, Returned]], Returned]:
    """Runs a coroutine whose sleeps take no time."""

    def run(coroutine: Coroutine[Any, Any, Returned]) -> Returned:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(coroutine)

    return run


@dataclass
class Answers(vision_pb2_grpc.VisionServiceServicer):
    """A classifier that takes the bytes of an image for its label, and notes what it was asked."""

    delay: float = 0.0
    refuse: grpc.StatusCode | None = None
    seen: list[Any] = field(default_factory=list)

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.seen.append(request)
        time.sleep(self.delay)
        if self.refuse is not None:
            context.abort(self.refuse, "no")
        return self.answer(request)

    def ClassifyStream(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            self.seen.append(request)
            time.sleep(self.delay)
            if self.refuse is not None:
                context.abort(self.refuse, "no")
            yield self.answer(request)

    def answer(self, request: Any) -> Any:
        timing = vision.Timing(decode_us=10, queue_us=20, infer_us=30, postprocess_us=40)
        timing.batch_size = 4
        results = [
            vision.Classification(
                timing=timing, labels=[vision.Label(name=image.encoded.decode(), score=1.0)]
            )
            for image in request.images
        ]
        return vision.ClassifyResponse(results=results)


class _Model(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Says that there is a classifier `animals`; infers by echoing the labels it was sent."""

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return oip.ServerLiveResponse(live=True)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.name != "animals":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name!r}")
        response = oip.ModelMetadataResponse(name=request.name)
        response.inputs.add(name="encoded", datatype="BYTES", shape=[-1])
        response.outputs.add(name="logits", datatype="FP32", shape=[-1, 2])
        return response

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        response = oip.ModelConfigResponse()
        response.config.parameters["task"].string_value = "classification"
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        raw = request.raw_input_contents[0]
        label = b"0.9:1:" + raw[4:]
        response = oip.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="logits", datatype="BYTES", shape=[1, 1])
        response.raw_output_contents.append(len(label).to_bytes(4, "little") + label)
        return response

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            if request.parameters:
                yield oip.ModelStreamInferResponse(error_message="no parameters, please")
            else:
                answer = self.ModelInfer(request, context)
                yield oip.ModelStreamInferResponse(infer_response=answer)


@dataclass(frozen=True)
class VisionServer:
    """Where it listens, and what answers there."""

    url: str
    answers: Answers


@pytest.fixture
def vision_server() -> Iterator[VisionServer]:
    """A server of both services, in this process."""
    answers = Answers()
    server = grpc.server(ThreadPoolExecutor(8))
    vision_pb2_grpc.add_VisionServiceServicer_to_server(answers, server)
    grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Model(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield VisionServer(f"127.0.0.1:{port}", answers)
    server.stop(None).wait()


@dataclass(frozen=True)
class Served:
    """A running `convserve serve` with the models `mean` (x UINT8 [-1,4,4,3] -> FP32 [-1,3]) and
    `colours`, which takes image files."""

    url: str
    rest_url: str
    metrics_url: str


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Our own server on two tiny models, as its own process."""
    repository = tmp_path_factory.mktemp("repository")
    _write_model(repository / "mean")
    publish(repository, "colours")
    ports = _free_ports(3)
    log = repository.parent / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "convserve", "serve",
                "--model-repository", str(repository), "--allow-ungated",
                "--grpc-port", str(ports[0]), "--http-port", str(ports[1]),
                "--metrics-port", str(ports[2]),
            ],
            stdout=output,
            stderr=output,
        )  # fmt: skip
    try:
        _wait_until_ready(f"127.0.0.1:{ports[0]}", process, log)
        grpc_url, rest_url, metrics_url = (f"127.0.0.1:{port}" for port in ports)
        yield Served(grpc_url, f"http://{rest_url}", f"http://{metrics_url}/metrics")
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _write_model(folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["f"], ["y"], axes=[1, 2], keepdims=0),
        ],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 4, 4, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(
        'name: "mean"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 8\n'
        'input { name: "x" data_type: TYPE_UINT8 dims: [4, 4, 3] }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: [3] }\n'
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    with grpc.insecure_channel(url) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(grpc.RpcError):
                requests = [oip.ModelReadyRequest(name=name) for name in ("mean", "colours")]
                if all(stub.ModelReady(r, timeout=5, wait_for_ready=True).ready for r in requests):
                    return
            time.sleep(0.1)
    pytest.fail(f"the server did not become ready:\n{log.read_text()}")
