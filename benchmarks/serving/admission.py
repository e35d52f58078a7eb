"""Goodput past capacity: deadline-aware admission against a well-tuned FIFO queue.

    python -m benchmarks.serving.admission [--seconds 10] [--rounds 3]

A network of at least 25 ms an image on one core is served by a process on one core; the load
tester, on another, sends Poisson arrivals at multiples of the capacity that a closed loop finds
first. Every call has a deadline of three times the latency of the largest batch. Goodput is answers
within the deadline a second. Beside it, asked without deadlines: a model whose `slo_ms` is the
deadline, and a FIFO queue, ours as well, with a bound at which a full queue is answered just within
the deadline: as good as first come, first served gets. Rounds alternate between the three.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.process import ServerProcess

FACTORS = (0.5, 0.9, 1.2, 2.0, 5.0)
MAX_BATCH_SIZE = 4
SIDE, CHANNELS, LAYERS = 112, 64, 14
SERVERS = ("aware", "slo", "fifo")
# Shares of the goodput at 0.9 of capacity that must be kept.
TARGETS = {2.0: 0.95, 5.0: 0.85}


def publish(
    repository: Path, name: str, queue: str = "", extra: str = "", layers: int = LAYERS
) -> None:
    """A stack of convolutions with random weights: its time is all that matters."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    weights = []
    for layer in range(layers):
        shape = (CHANNELS, 3 if layer == 0 else CHANNELS, 3, 3)
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
        [info("image", TensorProto.UINT8, ["b", SIDE, SIDE, 3])],
        [info("features", TensorProto.FLOAT, ["b", CHANNELS])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    (repository / name / "config.pbtxt").write_text(
        f"max_batch_size: {MAX_BATCH_SIZE}\n"
        f'input {{ name: "image" data_type: TYPE_UINT8 dims: [{SIDE}, {SIDE}, 3] }}\n'
        f'output {{ name: "features" data_type: TYPE_FP32 dims: [{CHANNELS}] }}\n'
        f"dynamic_batching {{ {queue} }}\n{extra}"
    )


def load_command(url: str, model: str, *options: str) -> list[str]:
    """`convserve loadtest run` on core 1, which prints JSON."""
    command = [sys.executable, "-m", "convserve", "loadtest", "run", "--url", url]
    command += ["--model", model, "--api", "oip", "--json", "--max-lateness", "50ms", *options]
    return ["taskset", "-c", "1", *command]


def load(url: str, model: str, *options: str) -> dict[str, Any]:
    """One phase of it, as its JSON says it."""
    command = load_command(url, model, *options)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if not result.stdout:
        sys.exit(result.stderr)
    phase: dict[str, Any] = json.loads(result.stdout)["phases"][0]
    return phase


def main() -> None:
    """Prints the table; exit status 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("needs two cores: one for the server, one for the load")
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        publish(repository, "probe")
        capacity, full_batch = measure_capacity(repository, Path(folder))
        single = full_batch / MAX_BATCH_SIZE
        if single < 0.025:
            sys.exit(f"the network takes {single * 1e3:.1f} ms an image: expected at least 25 ms")
        deadline = 3 * full_batch
        bound = max(1, int(capacity * deadline) - MAX_BATCH_SIZE)
        publish(repository, "aware")
        slo = f'{{ string_value: "{deadline * 1e3:.0f}" }}'
        publish(repository, "slo", extra=f'parameters {{ key: "slo_ms" value {slo} }}\n')
        publish(repository, "fifo", f"default_queue_policy {{ max_queue_size: {bound} }}")
        print(
            f"capacity {capacity:.1f}/s, batch of {MAX_BATCH_SIZE}: {full_batch * 1e3:.0f} ms, "
            f"deadline {deadline * 1e3:.0f} ms, FIFO queue of {bound}\n"
        )
        found = measure(repository, Path(folder), capacity, deadline, arguments)
    sys.exit(report(found, deadline))


def start(repository: Path, cache: Path) -> ServerProcess:
    """A server on core 0; children inherit the affinity that is set around its start."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    try:
        return ServerProcess(repository, "--allow-ungated", cache=cache).wait_ready()
    finally:
        os.sched_setaffinity(0, cores)


def measure_capacity(repository: Path, folder: Path) -> tuple[float, float]:
    """Requests a second with batches that are always full, and the seconds of such a batch."""
    server = start(repository, folder / "cache")
    try:
        phase = load(
            server.url, "probe", "--concurrency", str(3 * MAX_BATCH_SIZE), "--duration", "8s"
        )
        _, text = server.get(f"{server.http}/debug/batches")
    finally:
        server.kill()
    took = [batch["took"] for batch in json.loads(text)["probe/1"]]
    return phase["requests_per_second"], statistics.median(took)


def measure(
    repository: Path,
    folder: Path,
    capacity: float,
    deadline: float,
    arguments: argparse.Namespace,
) -> dict[str, dict[float, list[dict[str, Any]]]]:
    """Phases by server and factor of the capacity."""
    milliseconds = f"{deadline * 1e3:.0f}ms"
    found: dict[str, dict[float, list[dict[str, Any]]]] = {name: {} for name in SERVERS}
    server = start(repository, folder / "cache")
    try:
        for number in range(arguments.rounds):
            for factor in FACTORS:
                for name in SERVERS:
                    options = ["--deadline", milliseconds] if name == "aware" else []
                    phase = load(
                        server.url,
                        name,
                        *("--arrivals", "poisson", "--rate", f"{capacity * factor:.2f}"),
                        *("--duration", f"{arguments.seconds}s", "--objective", milliseconds),
                        *("--seed", str(number)),
                        *options,
                    )
                    found[name].setdefault(factor, []).append(phase)
    finally:
        server.kill()
    return found


def report(found: dict[str, dict[float, list[dict[str, Any]]]], deadline: float) -> int:
    """The table, medians over rounds; 1 where deadline-aware admission misses a target, or p99 of
    accepted calls is past the deadline or SLO (seconds)."""
    print("| load | server | goodput/s | of that at 0.9 | p99 of answers, ms | refused |")
    print("| --- | --- | --- | --- | --- | --- |")
    status = 0
    for factor in FACTORS:
        for name, by_factor in found.items():

            def median(key: str, at: float, name: str = name) -> float:
                return statistics.median(phase[key] for phase in found[name][at])

            share = median("goodput_per_second", factor) / median("goodput_per_second", 0.9)
            p99 = statistics.median(p["latency_ms"]["p99"]["value"] for p in by_factor[factor])
            print(
                f"| {factor} | {name} | {median('goodput_per_second', factor):.1f} | {share:.0%} "
                f"| {p99:.0f} | {median('error_rate', factor):.0%} |"
            )
            missed = share < TARGETS.get(factor, 0.0) or p99 > deadline * 1e3
            if name != "fifo" and missed:
                status = 1
    return status


if __name__ == "__main__":
    main()
