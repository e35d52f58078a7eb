"""A process that has what a server needs of memory and nothing else.

    python -m benchmarks.serving.bare CACHE FILE ENGINE PRECISION [FILE ENGINE PRECISION ...]

Imports what `convserve serve` imports, loads each file into its engine as the server does, and runs
one batch of 32 on each. Prints the bytes of the inputs of these batches, then lives until its stdin
closes. Whatever else it imported would be counted, so it parses its arguments by hand.
"""

import sys
from pathlib import Path

import numpy as np

import serving.cli.serve  # noqa: F401  what the process would be a server with
from serving.engines import EngineOptions, load_engine
from serving.engines.measure import core_count

BATCH = 32


def main() -> None:
    """Runs."""
    cache, *models = sys.argv[1:]
    engines, buffers = [], 0
    for file, engine_name, precision in zip(*[iter(models)] * 3, strict=True):
        options = EngineOptions(precision, 1, core_count(), BATCH, Path(cache))
        engine = load_engine(engine_name, Path(file), options)
        inputs = {s.name: np.ones((BATCH, *s.shape[1:]), s.dtype) for s in engine.inputs}
        engine.infer(inputs)
        buffers += sum(array.nbytes for array in inputs.values())
        engines.append(engine)
    print(buffers, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
