"""A server whose engines run in another process answers as any other. The whole of these tests runs
that way with CONVSERVE_ENGINE_PROCESS=1; here is the short form that runs always."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import grpc
import numpy as np
import pytest
import tritonclient.http as triton

from protos.gen import grpc_service_pb2 as oip
from protos.gen import grpc_service_pb2_grpc as oip_grpc
from tests.support import identity
from tests.support.identity import publish_identity
from tests.support.process import ServerProcess
from tests.support.published import SIDE, publish

# Of all that ONNX Runtime serves.
VALUES = {kind: values for kind, values in identity.VALUES.items() if kind != "BF16"}


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[ServerProcess]:
    repository = tmp_path_factory.mktemp("apart")
    publish(repository)
    publish_identity(repository, "identity", list(VALUES))
    flags = ("--engine-process", "--allow-ungated", "--engine", "onnxruntime")
    server = ServerProcess(repository, *flags, cache=cache).wait_ready()
    yield server
    server.kill()


def pids(server: ServerProcess) -> tuple[int, int]:
    """Front and engine process, as /readyz names them."""
    _, text = server.get(f"{server.http}/readyz")
    front, engine = (line for line in text.splitlines() if line.startswith("process "))
    return int(front.split("pid ")[1]), int(engine.split("pid ")[1].split(",")[0])


def echoed(server: ServerProcess, kind: str, values: np.ndarray) -> np.ndarray:
    """What an identity network makes of values, all of one datatype."""
    with triton.InferenceServerClient(server.http.removeprefix("http://")) as client:
        inputs = []
        for name, usual in VALUES.items():
            data = values if name == kind else usual
            given = triton.InferInput(f"in_{name}", list(data.shape), name)
            given.set_data_from_numpy(data)
            inputs.append(given)
        outputs = [triton.InferRequestedOutput(f"out_{kind}")]
        found = client.infer("identity", inputs, outputs=outputs).as_numpy(f"out_{kind}")
    assert found is not None
    return found


@pytest.mark.parametrize("kind", VALUES)
def test_every_datatype_in_any_number_goes_there_and_back(apart: ServerProcess, kind: str) -> None:
    for repeats in (1, 1000):
        values = np.tile(VALUES[kind], repeats)
        found = echoed(apart, kind, values)
        assert found.tolist() == values.tolist()


def test_a_call_of_megabytes_goes_there_and_back(apart: ServerProcess) -> None:
    values = np.arange(1 << 20, dtype=np.float32)
    assert (echoed(apart, "FP32", values) == values).all()


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_front_has_no_engine_and_engine_process_no_grpc(apart: ServerProcess) -> None:
    front, engine = pids(apart)
    assert front == apart.process.pid
    assert "onnxruntime" in maps(engine)
    assert not any(name in maps(front) for name in ("onnxruntime", "openvino"))
    assert "cygrpc" in maps(front)
    assert not any(name in maps(engine) for name in ("cygrpc", "aiohttp"))


def test_server_serves_on_after_its_engine_process_died(apart: ServerProcess) -> None:
    _, engine = pids(apart)
    os.kill(engine, 9)
    assert echoed(apart, "INT8", VALUES["INT8"]).tolist() == VALUES["INT8"].tolist()
    apart.wait_ready()
    assert pids(apart)[1] != engine
    assert apart.metric('convserve_engine_process_ends_total{reason="crash"}') == 1
    assert apart.get(f"{apart.http}/livez") == (200, "ok\n")


def test_a_front_that_dies_leaves_no_process_and_no_caller_waiting(
    colours: Path, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(colours, "--engine-process").wait_ready()
    _, engine = pids(server)
    request = oip.ModelInferRequest(model_name="colours")
    request.inputs.add(name="image", datatype="UINT8", shape=[1, SIDE, SIDE, 3])
    request.raw_input_contents.append(bytes(SIDE * SIDE * 3))
    requests: Queue[oip.ModelInferRequest] = Queue()
    with grpc.insecure_channel(server.url) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        answers = stub.ModelStreamInfer(iter(requests.get, None), timeout=20)
        requests.put(request)
        assert not next(answers).error_message
        server.process.kill()
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        server.wait()
        end = time.monotonic() + 20
        while Path(f"/proc/{engine}").exists():
            assert time.monotonic() < end, "the engine process outlives its front"
            time.sleep(0.01)  # between two looks at a process of somebody else
        port = server.url.rpartition(":")[2]
        start_server(colours, "--engine-process", "--grpc-port", port).wait_ready()
        assert stub.ModelInfer(request, timeout=20, wait_for_ready=True).outputs
