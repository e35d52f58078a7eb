"""Memory of a server beyond that of its engines, and its growth.

    python -m benchmarks.serving.memory [--seconds 10] [--requests 100000]

First, ResNet-18, ResNet-50 and MobileNet-v2 are served together, each in the variant and engine
that the server chooses (INT8 where the processor is fast at it). 96 callers keep batches of up to
32 under way; then each model gets one batch of every size from 1 to 32, since an engine may keep
memory for each size. The peak resident memory (RSS) is compared with that of a bare process, which
has the same imports, loads the same files into the same engines and runs one batch of 32 on each.
Its RSS after a batch of every size shows the engines' part. Both start twice: cold, with an empty
cache, so that the server compiles and times every variant in every engine; and warm, with the cache
of the cold start.

Then a network that does nothing gets requests of raw tensors, one half as single calls, the other
in streams. The slope of the server's RSS after the first fifth is fitted by least squares.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.serving.bare import BATCH
from benchmarks.serving.networks import (
    COLD_SECONDS,
    PRECISIONS,
    Exported,
    export,
    export_trivial,
    publish,
)
from benchmarks.serving.tensor_load import image_requests, play
from loadtest.generator.arrivals import Arrivals
from loadtest.measurement.server_process import usage
from loadtest.wire.grpc_client import StreamClient, UnaryClient
from tests.support.process import ServerProcess

FILES = Path("build/benchmarks")
NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
SIDE, TRIVIAL_SIDE = 224, 32
MB = 1e6
EXTRA_MB, BUFFERS = 150, 2
CALLERS, STREAMS = 8, 2
SAMPLES = 100
WARMUP = 0.2
# Python allocates arenas of 1 MiB. One more in the middle of 80,000 requests makes a slope of 0.2,
# so a smaller bound would fail by chance. It is 20 bytes a request; the smallest leaked object
# takes 24 with the reference to it.
FLAT_MB = 0.2
TIMEOUT = 60.0


def rss(pid: int) -> float:
    """Resident memory, MB."""
    return usage(pid)[1] / MB


@dataclass(frozen=True)
class Bare:
    """Resident memory of the bare process after a batch of 32 and after every size, and the bytes
    of the inputs of that batch; MB."""

    largest: float
    every_size: float
    buffers: float


@dataclass
class Highest:
    """The highest resident memory of a process while it is watched, MB."""

    pid: int
    found: float = 0.0
    _stopped: threading.Event = field(default_factory=threading.Event)

    def _watch(self) -> None:
        while not self._stopped.wait(0.1):
            self.found = max(self.found, rss(self.pid))

    def __enter__(self) -> "Highest":
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()


@contextlib.contextmanager
def serving(repository: Path, cache: Path) -> Iterator[ServerProcess]:
    """A server whose models are all loaded."""
    server = ServerProcess(repository, "--strict-readiness", cache=cache)
    try:
        yield server.wait_ready(COLD_SECONDS)
    finally:
        server.kill()


def bare(networks: dict[str, Exported], chosen: dict[str, tuple[str, str]], cache: Path) -> Bare:
    """Runs it."""
    command = [sys.executable, "-m", "benchmarks.serving.bare", str(cache)]
    for name, (variant, engine) in chosen.items():
        command += [str(networks[name].files[variant]), engine, PRECISIONS[variant]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        buffers = int(process.stdout.readline()) / MB
        largest = rss(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        every_size = rss(process.pid)
        process.communicate()
    return Bare(largest, every_size, buffers)


async def batches(url: str, models: list[str], seconds: float) -> None:
    """Single images from as many callers as fill a batch of each model."""
    client = UnaryClient(url, TIMEOUT)
    arrivals = Arrivals("closed", concurrency=BATCH * len(models))
    await play(client, image_requests(models, SIDE), arrivals, seconds=seconds)
    await client.close()


async def every_size(url: str, models: list[str]) -> None:
    """Sends one request at a time, of 1 to 32 images: a batch of each size."""
    client = UnaryClient(url, TIMEOUT)
    one = Arrivals("closed", concurrency=1)
    for rows in range(1, BATCH + 1):
        for request in image_requests(models, SIDE, rows):
            await play(client, [request], one, seconds=float("inf"), limit=1)
    await client.close()


def beside_bare(seconds: float) -> list[str]:
    """Prints the table. Returns the faults found."""
    wrong = []
    print(
        "| start | idle MB | under load MB | every batch size MB | bare MB | "
        "bare, every batch size MB | at most MB | chosen |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        repository, caches = Path(folder) / "models", [Path(folder) / n for n in ("ours", "bare")]
        networks = {name: export(name, FILES) for name in NETWORKS}
        models = list(networks)
        for name, exported in networks.items():
            publish(repository, name, exported)
        for start in ("cold", "warm"):
            with serving(repository, caches[0]) as server:
                pid, chosen = server.process.pid, server.chosen()
                idle = rss(pid)
                with Highest(pid) as loaded:
                    asyncio.run(batches(server.url, models, seconds))
                with Highest(pid) as sized:
                    asyncio.run(every_size(server.url, models))
            alone = bare(networks, chosen, caches[1])
            limit = alone.largest + EXTRA_MB + BUFFERS * alone.buffers
            what = ", ".join(f"{m}: {v} in {e}" for m, (v, e) in sorted(chosen.items()))
            print(
                f"| {start} | {idle:.0f} | {loaded.found:.0f} | {sized.found:.0f} | "
                f"{alone.largest:.0f} | {alone.every_size:.0f} | {limit:.0f} | {what} |",
                flush=True,
            )
            highest = max(loaded.found, sized.found)
            if highest > limit:
                wrong.append(f"{highest:.0f} MB after a {start} start, at most {limit:.0f}")
    return wrong


async def sampled(server: ServerProcess, requests: int) -> list[float]:
    """The server's resident memory (MB) after each hundredth of the requests."""
    found: list[float] = []
    count = 0

    def answered() -> None:
        nonlocal count
        count += 1
        if count % (requests // SAMPLES) == 0:
            found.append(rss(server.process.pid))

    clients = (UnaryClient(server.url, TIMEOUT), StreamClient(server.url, TIMEOUT, STREAMS))
    closed = Arrivals("closed", concurrency=CALLERS)
    messages = image_requests(["trivial"], TRIVIAL_SIDE)
    await asyncio.gather(
        *(
            play(
                client, messages, closed,
                seconds=float("inf"), limit=requests // 2, answered=answered,
            )
            for client in clients
        )
    )  # fmt: skip
    for client in clients:
        await client.close()
    return found


def over_requests(requests: int) -> list[str]:
    """Prints the table. Returns the faults found."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        publish(repository, "trivial", export_trivial(TRIVIAL_SIDE, FILES))
        with serving(repository, FILES / "cache") as server:
            before = rss(server.process.pid)
            found = asyncio.run(sampled(server, requests))
    first = round(WARMUP * len(found))
    per_sample = float(np.polyfit(range(len(found) - first), found[first:], 1)[0])
    slope = per_sample * SAMPLES / requests * 10_000
    print("| requests | before MB | after warm-up MB | at the end MB | MB per 10,000 | at most |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(
        f"| {requests:,} | {before:.1f} | {found[first]:.1f} | {found[-1]:.1f} | {slope:+.3f} | "
        f"{FLAT_MB} |"
    )
    return [f"grows by {slope:.3f} MB per 10,000 requests"] if slope > FLAT_MB else []


def main() -> None:
    """Prints both tables; exit status 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load beside the bare one")
    parser.add_argument("--requests", type=int, default=100_000, help="fewer say little")
    arguments = parser.parse_args()
    if arguments.requests < 2 * SAMPLES:
        parser.error(f"--requests: expected at least {2 * SAMPLES}")
    wrong = beside_bare(arguments.seconds)
    print()
    wrong += over_requests(arguments.requests)
    sys.exit("; ".join(wrong) or 0)


if __name__ == "__main__":
    main()
