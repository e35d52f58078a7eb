"""A server with a slow network on one core and the load tester on another, so that latencies show
the queue alone."""

import contextlib
import json
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.serving.load import load
from tests.support.process import ServerProcess

SERVER_CORE, LOAD_CORE = 0, 1
MAX_BATCH_SIZE = 4
_SIDE, _CHANNELS = 112, 64


def require_two_cores() -> None:
    """Ends the program, with the reason, where it may use only one core."""
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("needs two cores: one for the server, one for the load")


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keeps processes that are started inside the block on this core, by inherited affinity."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def publish_convolutions(
    repository: Path, name: str, layers: int, queue: str = "", extra: str = ""
) -> None:
    """A stack of convolutions with random weights, of which only the time matters.

    queue: content of its `dynamic_batching`.
    extra: further lines of its config.pbtxt.
    """
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    weights = []
    for layer in range(layers):
        shape = (_CHANNELS, 3 if layer == 0 else _CHANNELS, 3, 3)
        kernel = rng.normal(0, 0.05, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        inputs, output = [f"x{layer}", f"w{layer}"], f"c{layer}"
        nodes.append(helper.make_node("Conv", inputs, [output], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [output], [f"x{layer + 1}"]))
    nodes.append(helper.make_node("GlobalAveragePool", [f"x{layers}"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["features"], axis=1))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        name,
        [info("image", TensorProto.UINT8, ["b", _SIDE, _SIDE, 3])],
        [info("features", TensorProto.FLOAT, ["b", _CHANNELS])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    (repository / name / "config.pbtxt").write_text(
        f"max_batch_size: {MAX_BATCH_SIZE}\n"
        f'input {{ name: "image" data_type: TYPE_UINT8 dims: [{_SIDE}, {_SIDE}, 3] }}\n'
        f'output {{ name: "features" data_type: TYPE_FP32 dims: [{_CHANNELS}] }}\n'
        f"dynamic_batching {{ {queue} }}\n{extra}"
    )


def start(repository: Path, cache: Path) -> ServerProcess:
    """Runs a server on its core until the end of the block, from when it is ready."""
    with on_core(SERVER_CORE):
        return ServerProcess(repository, "--allow-ungated", cache=cache).wait_ready()


def measure_capacity(repository: Path, cache: Path, layers: int) -> tuple[float, float]:
    """Requests a second with full batches, and the seconds of such a batch. Leaves the measured
    network in the repository, as `probe`."""
    publish_convolutions(repository, "probe", layers)
    server = start(repository, cache)
    callers = ("--concurrency", str(3 * MAX_BATCH_SIZE))
    try:
        with on_core(LOAD_CORE):
            phase = load(server.url, "probe", *callers, "--duration", "8s")
        _, text = server.get(f"{server.http}/debug/batches")
    finally:
        server.kill()
    took = [batch["took"] for batch in json.loads(text)["probe/1"]]
    return phase["requests_per_second"], statistics.median(took)
