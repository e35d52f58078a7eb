"""Effect of a flood on one model on the latency of another in the same process.

    python -m benchmarks.serving.flood [--seconds 10] [--rounds 3]

Two models with a network of some milliseconds an image are served by a process on one core; the
load tester is on another. One gets a light Poisson load, alone and while 32 callers in a closed
loop keep the other one's batches full. Its p99 may rise by one batch of the flooded model at most:
a running batch is not interrupted, but the next turn goes to the lightly loaded model. Rounds
alternate.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.serving.load import load_command, p99, poisson
from benchmarks.serving.two_cores import (
    LOAD_CORE,
    MAX_BATCH_SIZE,
    measure_capacity,
    on_core,
    publish_convolutions,
    require_two_cores,
    start,
)
from tests.support.process import ServerProcess

CALLERS = 32
# About 10 ms an image.
LAYERS = 3
# Share of the capacity that the light load uses.
LIGHT = 0.1


def longest_batch(server: ServerProcess) -> float:
    """Milliseconds of the longest of the flooded model's recent batches."""
    _, text = server.get(f"{server.http}/debug/batches")
    return max(batch["took"] for batch in json.loads(text)["flooded/1"]) * 1e3


def measure(
    server: ServerProcess, rate: float, seconds: float, rounds: int
) -> list[tuple[float, float, float]]:
    """p99 alone, p99 beside the flood and the flooded model's batch, in milliseconds."""
    flood = load_command(
        server.url, "flooded", "--concurrency", str(CALLERS), "--duration", f"{seconds + 8}s"
    )
    found = []
    for number in range(rounds):
        light = partial(poisson, server.url, "light", rate, seconds, number, "--warmup", "1s")
        with on_core(LOAD_CORE):
            alone = p99(light())
            flooding = subprocess.Popen(flood, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                beside = p99(light())
                batch = longest_batch(server)
            finally:
                flooding.terminate()
                flooding.wait()
        found.append((alone, beside, batch))
        print(f"alone {alone:.0f} ms, beside the flood {beside:.0f} ms, its batch {batch:.0f} ms")
    return found


def main() -> None:
    """Prints each round; exit status 1 where the flood costs more than one batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    require_two_cores()
    with tempfile.TemporaryDirectory() as folder:
        repository, cache = Path(folder) / "models", Path(folder) / "cache"
        capacity, _ = measure_capacity(repository, cache, LAYERS)
        for name in ("light", "flooded"):
            publish_convolutions(repository, name, LAYERS)
        server = start(repository, cache)
        try:
            found = measure(server, LIGHT * capacity, arguments.seconds, arguments.rounds)
        finally:
            server.kill()
    alone, beside, batch = (statistics.median(times) for times in zip(*found, strict=True))
    print(
        f"medians: p99 {alone:.0f} ms alone, {beside:.0f} ms beside the flood: {beside - alone:.0f}"
        f" ms more, at most one batch of {MAX_BATCH_SIZE}, {batch:.0f} ms"
    )
    sys.exit(int(beside - alone > batch))


if __name__ == "__main__":
    main()
