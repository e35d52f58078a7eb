"""The ceiling of a server: the same engine and image path in one process, with full batches.

    python -m benchmarks.serving.speed.ceiling --file F --engine E --precision P
        --workload tensor|classify|segment --height H --width W [--images DIR] [--batch 32]
        --seconds 5

Prints one JSON document: images, seconds, cpu (seconds of this process), and the milliseconds of a
single image alone.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks.serving.networks import eval_transform
from serving.base.machine.cpu import core_count
from serving.base.task import IMAGE_INPUT
from serving.base.tensor import Array
from serving.engines import Engine, EngineOptions, load_engine
from serving.images.postprocess import palette_png, top_k
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform

TOP = 5


def batches(
    workload: str,
    files: list[bytes],
    transform: EvalTransform,
    batch: int,
    pool: ThreadPoolExecutor,
) -> Iterator[Array]:
    """Batches ready for the engine; the next one is decoded while the engine runs."""
    height, width = transform.size
    if workload == "tensor":
        images = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
        while True:
            yield images
    source = cycle(files)
    load: Callable[[bytes], Array] = lambda data: load_image(data, transform).pixels  # noqa: E731
    waiting = [pool.submit(load, next(source)) for _ in range(2 * batch)]
    while True:
        buffer = np.empty((batch, height, width, 3), np.uint8)
        for index in range(batch):
            buffer[index] = waiting.pop(0).result()
            waiting.append(pool.submit(load, next(source)))
        yield buffer


def answer(workload: str, outputs: dict[str, Array], pool: ThreadPoolExecutor) -> None:
    """Makes the answers of a batch: labels, or mask PNGs."""
    if workload == "classify":
        for row in outputs["logits"]:
            top_k(row, TOP)
    elif workload == "segment":
        list(pool.map(palette_png, outputs["mask"]))


def single(engine: Engine, shape: tuple[int, int]) -> float:
    """Median milliseconds of one image alone."""
    image = np.random.default_rng(0).integers(0, 256, (1, *shape, 3), np.uint8)
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        engine.infer({IMAGE_INPUT: image})
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e3


def main() -> None:
    """Runs the batches and prints the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--workload", choices=("tensor", "classify", "segment"), required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    size = (arguments.height, arguments.width)
    transform = eval_transform(size)
    paths = sorted(arguments.images.iterdir()) if arguments.images else []
    files = [path.read_bytes() for path in paths]
    options = EngineOptions(arguments.precision, 1, core_count(), arguments.batch)
    engine = load_engine(arguments.engine, arguments.file, options)
    with ThreadPoolExecutor(core_count()) as pool:
        source = batches(arguments.workload, files, transform, arguments.batch, pool)
        for _ in range(3):
            answer(arguments.workload, engine.infer({IMAGE_INPUT: next(source)}), pool)
        alone = single(engine, size)
        images, begin, cpu = 0, time.monotonic(), time.process_time()
        while time.monotonic() - begin < arguments.seconds:
            answer(arguments.workload, engine.infer({IMAGE_INPUT: next(source)}), pool)
            images += arguments.batch
        seconds, cpu = time.monotonic() - begin, time.process_time() - cpu
        pool.shutdown(cancel_futures=True)
    engine.close()
    print(json.dumps({"images": images, "seconds": seconds, "cpu": cpu, "single_ms": alone}))


if __name__ == "__main__":
    main()
