"""A process with the memory that a server needs for its imports and engines, and nothing else.

    python -m benchmarks.serving.bare CACHE FILE ENGINE PRECISION [FILE ENGINE PRECISION ...]

It has the imports of `convserve serve`, loads each file into its engine as the server does, runs
one batch of 32 on each, and prints the bytes of the inputs of these batches. After a line on its
stdin it runs a batch of every size up to 32 and prints the bytes again. Then it waits until its
stdin closes. It parses its arguments by hand, since further imports would add memory.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import serving.cli.serve  # noqa: F401  the imports of a server
from serving.base.machine.cpu import core_count
from serving.engines import Engine, EngineOptions, load_engine

BATCH = 32


def main() -> None:
    """Loads the files, runs the batches, and waits for the end of stdin."""
    cache, *models = sys.argv[1:]
    engines = []
    for file, name, precision in zip(*[iter(models)] * 3, strict=True):
        options = EngineOptions(precision, 1, core_count(), BATCH, Path(cache))
        engines.append(load_engine(name, Path(file), options))
    print(run(engines, BATCH), flush=True)
    sys.stdin.readline()
    for rows in range(1, BATCH):
        run(engines, rows)
    print(run(engines, BATCH), flush=True)
    sys.stdin.read()


def run(engines: Sequence[Engine], rows: int) -> int:
    """Runs one batch on each. Returns the bytes of their inputs."""
    size = 0
    for engine in engines:
        inputs = {s.name: np.ones((rows, *s.shape[1:]), s.dtype) for s in engine.inputs}
        engine.infer(inputs)
        size += sum(array.nbytes for array in inputs.values())
    return size


if __name__ == "__main__":
    main()
