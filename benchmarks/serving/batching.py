"""CPU cost of batching around the engine, and equality of answers across batches.

    python -m benchmarks.serving.batching [--seconds 5] [--rounds 5] [--requests 2000] [--side 64]

Overhead: CPU time of the process per image, with ResNet-18 INT8 and raw tensors in batches of 32,
for the bare engine and for the batcher around it, without the wire; the two take turns. Invariance:
the same requests alone and in random batches, gathered as in the server, are compared bit by bit,
by network, variant and CPU engine. With images of 64x64 this takes some ten minutes on one core,
exports included; 224x224 would be twelve times the work. Integrity: 200,000 calls of a network
whose right answer is known, with random cancels and deadlines.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.serving.networks import export
from serving.base.errors import DeadlineExpired, QueueFull, Shed
from serving.base.machine.cpu import core_count
from serving.base.metrics import EngineMetrics
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreTurns
from serving.batching.execution import BatchExecution
from serving.batching.latency import LatencyTable
from serving.batching.port import submitted
from serving.engines import ENGINES, Engine, EngineOptions, load_engine
from serving.repository.model_config import Batching, QueuePolicy

NETWORKS = ("resnet18", "vgg16_bn", "mobilenet_v2")
FILES = Path("build/benchmarks")
BATCH = 32
OVERHEAD_TARGET = 1.05
# Distance of an answer from that of its image alone, at most, by engine, as a share of its largest
# logit. ONNX Runtime uses other kernels for some INT8 products of few rows.
TOLERANCES = {"openvino": 0.0, "onnxruntime": 0.01}


def batcher_of(engine: Engine, max_batch_size: int) -> DynamicBatcher:
    cores = core_count()
    return DynamicBatcher(
        engine,
        model="m",
        version="1",
        max_batch_size=max_batch_size,
        batching=Batching(default_policy=QueuePolicy(max_queue_size=100_000)),
        instances=1,
        latency=LatencyTable({1: 1e-4, max_batch_size: 1e-4 * max_batch_size}),
        metrics=EngineMetrics(),
        turns=CoreTurns(cores),
        cores=cores,
    )


def cpu_of_engine(engine: Engine, images: np.ndarray, seconds: float) -> float:
    """CPU seconds an image in engine.infer alone, with full batches gathered beforehand."""
    batch = np.concatenate([images] * (BATCH // len(images)))
    count, begin, end = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        engine.infer({"image": batch})
        count += BATCH
    return (time.process_time() - begin) / count


def cpu_of_batcher(engine: Engine, images: np.ndarray, seconds: float) -> float:
    """CPU seconds an image of single calls through the batcher, enough of them for full batches."""

    async def body() -> float:
        batcher = batcher_of(engine, BATCH)
        count, begin, end = 0, time.process_time(), time.monotonic() + seconds

        async def caller(image: np.ndarray) -> None:
            nonlocal count
            while time.monotonic() < end:
                ticket = batcher.admit(1, 0, float("inf"))
                await submitted(batcher, ticket, [{"image": image[np.newaxis]}])
                count += 1

        await asyncio.gather(*(caller(images[i % len(images)]) for i in range(3 * BATCH)))
        cpu = time.process_time() - begin
        batcher.close()
        return cpu / count

    return asyncio.run(body())


def overhead(seconds: float, rounds: int) -> bool:
    """Prints the ratio. Returns whether it is within the target."""
    images = np.random.default_rng(1).integers(0, 256, (8, 224, 224, 3), np.uint8)
    file = export("resnet18", FILES).files["int8-s8"]
    options = EngineOptions(precision="int8", threads=core_count(), max_batch_size=BATCH)
    engine = load_engine("openvino", file, options)
    cpu_of_engine(engine, images, 1.0)
    pairs = [
        (cpu_of_engine(engine, images, seconds), cpu_of_batcher(engine, images, seconds))
        for _ in range(rounds)
    ]
    engine.close()
    bare, batched = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(
        f"overhead: engine {bare * 1e3:.2f} ms CPU an image, with batching {batched * 1e3:.2f}, "
        f"ratio {ratio:.3f} (medians of {rounds}; at most {OVERHEAD_TARGET})"
    )
    return ratio <= OVERHEAD_TARGET


def invariance(requests: int, side: int) -> bool:
    """Prints a line for each network, variant and engine. Returns whether all are within the
    bound of their engine."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (64, side, side, 3), np.uint8)
    order = rng.integers(0, len(images), requests)
    good = True
    for network in NETWORKS:
        files = export(network, FILES, (side, side)).files
        runs = [(v, v.split("-")[0], files[v]) for v in files] + [("bf16", "bf16", files["fp32"])]
        for variant, precision, file in runs:
            for name, tolerance in TOLERANCES.items():
                if precision not in ENGINES[name].precisions:
                    continue
                engine = load_engine(name, file, EngineOptions(precision, 1, core_count(), BATCH))
                equal, worst = agreement(engine, images, order)
                engine.close()
                good &= worst <= tolerance
                print(
                    f"invariance: {network} {variant} in {name}: {equal} of {requests} equal bit "
                    f"for bit, largest difference {worst:.1e} of the largest logit",
                    flush=True,
                )
    return good


def agreement(engine: Engine, images: np.ndarray, order: np.ndarray) -> tuple[int, float]:
    """Asks for images[order] in batches of random sizes. Returns the number of answers that equal,
    bit for bit, the answer to their image alone, and the largest difference from it, as a share of
    its largest logit. Each image is asked alone only once."""
    execution = BatchExecution(engine, BATCH, instances=1)

    def run(chosen: np.ndarray) -> np.ndarray:
        return execution.run([{"image": images[i : i + 1]} for i in chosen]).outputs["logits"]

    alone = np.concatenate([run(np.array([index])) for index in range(len(images))])
    rng = np.random.default_rng(3)
    rest, shares = order, []
    while len(rest):
        size = int(rng.integers(1, BATCH + 1))
        chosen, rest = rest[:size], rest[size:]
        expected = alone[chosen]
        difference = np.abs(run(chosen) - expected).max(axis=1)
        shares.append(difference / np.abs(expected).max(axis=1))
    found = np.concatenate(shares)
    return int(np.count_nonzero(found == 0)), float(found.max())


def integrity(calls: int) -> bool:
    """Whether every one of the calls had its own right answer, or the end that it asked for."""
    from tests.serving.batching.fake_engine import FakeEngine, answered

    chance = random.Random(3)
    outcomes: dict[str, int] = {}

    async def body() -> int:
        batcher = batcher_of(FakeEngine(), BATCH)  # type: ignore[arg-type]
        wrong = 0

        async def caller(value: float) -> None:
            nonlocal wrong
            outcome = "answered"
            try:
                timeout = chance.choice([0.0005, 0.01, 30.0, 30.0])
                ticket = batcher.admit(1, 0, time.monotonic() + timeout)
                inputs = {"x": np.full((1, 2), value, np.float32)}
                task = asyncio.create_task(answered(batcher, ticket, [inputs]))
                if chance.random() < 0.1:
                    await asyncio.sleep(0)
                    task.cancel()
                answer = await task
                wrong += bool((answer.outputs["y"] != value * 2).any())
            except (Shed, QueueFull, DeadlineExpired, asyncio.CancelledError) as error:
                outcome = type(error).__name__
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

        for begin in range(0, calls, 500):
            await asyncio.gather(*(caller(float(v)) for v in range(begin, begin + 500)))
        drained = await batcher.drain(10)
        batcher.close()
        return wrong + (not drained)

    wrong = asyncio.run(body())
    print(f"integrity: {sum(outcomes.values())} of {calls} calls ended, {wrong} wrong: {outcomes}")
    return wrong == 0 and sum(outcomes.values()) == calls


def main() -> None:
    """Runs all three or the chosen one; exit status 1 where one misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--side", type=int, default=64, help="of the images of invariance")
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--only", choices=("integrity", "overhead", "invariance"))
    arguments = parser.parse_args()
    parts = {
        "integrity": lambda: integrity(arguments.calls),
        "overhead": lambda: overhead(arguments.seconds, arguments.rounds),
        "invariance": lambda: invariance(arguments.requests, arguments.side),
    }
    wanted = [arguments.only] if arguments.only else list(parts)
    good = [parts[name]() for name in wanted]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
