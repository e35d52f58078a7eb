"""Reloads under load: failed calls, wrong answers, growth of memory, latency of other models.

    python -m benchmarks.serving.reloads [--reloads 100] [--rounds 5] [--seconds 8]

First, two versions of MobileNet-v2 are loaded in turn, each with its variants and checks, with
latencies from the cache, while four callers ask for it. Every answer has to be that of the version
that it names. The slope of the server's memory (RSS) after the 20th reload is fitted by least
squares.

Then ResNet-18 gets a light Poisson load, alone and while MobileNet-v2 is loaded without a pause;
the ratio of its p99 is taken in each round. A second server, which loads in its own process and has
no loader process, takes turns with the first. The floor of the ratio is the one beside a thread of
another process at nice 19 that multiplies matrices, for no load takes less of the cores.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton

from benchmarks.serving.load import p99, poisson
from benchmarks.serving.networks import export, publish
from protos.gen import grpc_service_pb2 as pb
from protos.gen import grpc_service_pb2_grpc
from tests.support.process import ServerProcess

FILES = Path("build/benchmarks")
CALLERS = 4
SETTLED = 20  # reloads before memory counts
MIB_A_RELOAD = 0.2
NEIGHBOUR_RATIO = 1.5
FLOOR = "beside work that is no load"
# Share of the largest logit by which an answer may differ from that of its version; the two
# versions differ far more.
TOLERANCE = 0.02
# Becomes `convserve serve` without a loader process; the words of its command follow.
IN_THE_SERVER = """
import runpy, sys
from serving.models.loading.load_thread import LoadThread
load = LoadThread.load
LoadThread.load = lambda *arguments, apart: load(*arguments, apart=False)
sys.argv = sys.argv[3:]
runpy.run_module("convserve", run_name="__main__")
"""
# Multiplies matrices that fit into a core's cache, at the lowest priority.
_WORK = """
import os, numpy
os.nice(19)
matrix = numpy.ones((400, 400), numpy.float32)
while True:
    matrix @ matrix
"""


def repository(folder: Path) -> Path:
    """Two versions of `reloaded` and one of `neighbour`."""
    models = folder / "models"
    for version in (1, 2):
        publish(models, "reloaded", export("mobilenet_v2", FILES, seed=version))
    publish(models, "neighbour", export("resnet18", FILES))
    return models


@contextlib.contextmanager
def work_at_nice_19() -> Iterator[None]:
    """Keeps one thread of another process at the lowest priority busy."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WORK], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


# Runs a light load on a server's neighbour, whose URL it takes.
Light = Callable[[str], dict[str, Any]]


class Reloader:
    """Loads `reloaded` with one version after the other."""

    def __init__(self, models: Path, url: str) -> None:
        self._config = models / "reloaded" / "config.pbtxt"
        self._text = self._config.read_text()
        self._client = triton.InferenceServerClient(url)
        self._versions = itertools.cycle((2, 1))

    def load(self) -> int:
        """Loads the other version. Returns its number."""
        version = next(self._versions)
        policy = f"version_policy {{ specific {{ versions: {version} }} }}\n"
        self._config.write_text(self._text + policy)
        self._client.load_model("reloaded")
        return version


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no VmRSS of process {pid}")


def wait_until_retired(server: ServerProcess, count: int) -> None:
    """Waits until so many versions have been freed, since two at once would distort the memory."""
    while sum(line.get("message") == "model retired" for line in server.log) < count:
        time.sleep(0.02)


def request() -> pb.ModelInferRequest:
    """One random image for `reloaded`."""
    image = np.random.default_rng(5).integers(0, 256, (1, 224, 224, 3), np.uint8)
    message = pb.ModelInferRequest(model_name="reloaded")
    message.inputs.add(name="image", datatype="UINT8", shape=image.shape)
    message.raw_input_contents.append(image.tobytes())
    return message


async def reload_under_load(server: ServerProcess, reloader: Reloader, reloads: int) -> list[str]:
    """The faults found in as many reloads."""
    counts = {"answered": 0, "failed": 0, "wrong": 0}
    right: dict[str, Any] = {}
    memory = []
    message = request()
    async with grpc.aio.insecure_channel(server.url) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(2):
            await asyncio.to_thread(reloader.load)
            answer = await stub.ModelInfer(message)
            right[answer.model_version] = np.frombuffer(answer.raw_output_contents[0], np.float32)
        done = asyncio.Event()

        async def caller() -> None:
            while not done.is_set():
                try:
                    answer = await stub.ModelInfer(message)
                except grpc.aio.AioRpcError as error:
                    counts["failed"] += 1
                    print(f"failed: {error.code().name} {error.details()}")
                    continue
                logits = np.frombuffer(answer.raw_output_contents[0], np.float32)
                expected = right[answer.model_version]
                close = np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()
                counts["answered" if close else "wrong"] += 1

        callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
        for number in range(1, reloads + 1):
            await asyncio.to_thread(reloader.load)
            await asyncio.to_thread(wait_until_retired, server, number + 1)
            memory.append(rss_mib(server.process.pid))
            if number % 10 == 0:
                print(f"{number} reloads: {memory[-1]:.0f} MiB, {counts}", flush=True)
        done.set()
        await asyncio.gather(*callers)
    slope = float(np.polyfit(range(len(memory) - SETTLED), memory[SETTLED:], 1)[0])
    print(
        f"{reloads} reloads under load: {counts}; RSS {memory[0]:.0f} MiB after the first, "
        f"{memory[SETTLED]:.0f} after {SETTLED + 1}, {memory[-1]:.0f} after the last: "
        f"{slope:+.3f} MiB a reload (at most {MIB_A_RELOAD})"
    )
    wrong = [f"{counts[name]} calls {name}" for name in ("failed", "wrong") if counts[name]]
    return wrong + ([f"memory grows by {slope:.3f} MiB a reload"] if slope > MIB_A_RELOAD else [])


def beside_loads(server: ServerProcess, reloader: Reloader, light: Light) -> float:
    """The ratio of the neighbour's p99 beside loads to its p99 alone."""
    alone = p99(light(server.url))
    stopped, loads = threading.Event(), 0

    def keep_loading() -> None:
        nonlocal loads
        while not stopped.is_set():
            reloader.load()
            loads += 1

    thread = threading.Thread(target=keep_loading)
    thread.start()
    beside = p99(light(server.url))
    stopped.set()
    thread.join()
    print(f"  p99 {alone:.1f} ms alone, {beside:.1f} ms beside {loads} loads", flush=True)
    return beside / alone


def beside_work(server: ServerProcess, light: Light) -> float:
    """The same beside work that is no load."""
    alone = p99(light(server.url))
    with work_at_nice_19():
        beside = p99(light(server.url))
    print(f"  p99 {alone:.1f} ms alone, {beside:.1f} ms beside a thread at nice 19", flush=True)
    return beside / alone


def neighbours(
    sides: Mapping[str, tuple[ServerProcess, Reloader]], rate: float, seconds: float, rounds: int
) -> list[str]:
    """The faults found in the neighbour's p99 on the first server, beside that on the others."""

    def light(seed: int, url: str) -> dict[str, Any]:
        return poisson(url, "neighbour", rate, seconds, seed, "--warmup", "1s")

    ratios: dict[str, list[float]] = {side: [] for side in (*sides, FLOOR)}
    first = next(iter(sides.values()))[0]
    for number in range(rounds):
        for side, (server, reloader) in sides.items():
            print(f"round {number + 1}, {side}:")
            ratios[side].append(beside_loads(server, reloader, partial(light, number)))
        print(f"round {number + 1}, {FLOOR}:")
        ratios[FLOOR].append(beside_work(first, partial(light, number)))
    medians = {side: statistics.median(found) for side, found in ratios.items()}
    for side, ratio in medians.items():
        print(f"{side}: median ratio {ratio:.2f} of {', '.join(f'{r:.2f}' for r in ratios[side])}")
    ratio = next(iter(medians.values()))
    print(f"at most {NEIGHBOUR_RATIO:g}")
    return [f"a load makes the neighbour {ratio:.2f} x slower"] if ratio > NEIGHBOUR_RATIO else []


def main() -> None:
    """Prints the measurements; exit status 1 where a call failed or a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests/s of the neighbour")
    arguments = parser.parse_args()
    if 0 < arguments.reloads <= 2 * SETTLED:
        parser.error(f"--reloads: expected 0 or more than {2 * SETTLED}")
    wrong = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models, sides = repository(folder), {}
        for side, prefix in (
            ("loader process", ()),
            ("in the server", (sys.executable, "-c", IN_THE_SERVER)),
        ):
            server = ServerProcess(
                models, "--model-control", "explicit", cache=folder / "cache", prefix=prefix
            )
            stack.callback(server.kill)
            with triton.InferenceServerClient(server.admin) as client:
                client.load_model("neighbour")
            sides[side] = server, Reloader(models, server.admin)
        if arguments.reloads:
            server, reloader = sides["loader process"]
            wrong += asyncio.run(reload_under_load(server, reloader, arguments.reloads))
        wrong += neighbours(sides, arguments.rate, arguments.seconds, arguments.rounds)
    sys.exit("; ".join(wrong) or 0)


if __name__ == "__main__":
    main()
