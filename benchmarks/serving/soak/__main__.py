"""Honest callers of all kinds for half an hour: whether a server stays as it is.

    python -m benchmarks.serving.soak [--minutes 30] [--load 1] [--wire native] [--json FILE]

Some 60 calls a second, times `--load`, at random moments: single calls of both services, streams,
REST, large tensors, calls that are cancelled, that have hardly any time, or whose connection goes
away, new connections, health, names that nobody knows, and a model that is loaded anew every half
minute beside its calls. Every answer is checked by its value.

Exit status 1 where a call got a wrong answer, or a status that its kind does not bring, or none;
where the log has an error, or calls hold memory at the end; where memory, descriptors or threads of
the server differ, between the first sixth of the time and the end, by more than chance does.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from benchmarks.serving.soak.callers import (
    EXPECTED,
    MODELS,
    PATIENCE,
    RATES,
    Callers,
    publish_models,
)
from benchmarks.serving.soak.looks import Look, grown, look
from loadtest.measurement.server_process import usage
from tests.support.process import ServerProcess

# Looks at the server's process.
LOOKS = 360


@dataclass(frozen=True)
class Soaked:
    """What came of it.

    statuses: of calls, by kind.
    faults: all that must not be.
    cores: that the server's process took.
    """

    statuses: dict[str, dict[str, int]]
    looks: list[Look]
    faults: list[str]
    cores: float


async def _call(
    kind: str, make: Callable[[], Awaitable[str]], found: dict[str, Counter[str]]
) -> None:
    """Makes one call and notes what came of it."""
    try:
        status = await make()
    except grpc.aio.AioRpcError as error:
        status = str(error.code().name)
    except AssertionError:
        status = "wrong"
    except Exception as error:
        status = type(error).__name__
    found[kind][status] += 1


async def _callers(
    callers: Callers, load: float, seconds: float, seed: int
) -> dict[str, Counter[str]]:
    """Calls of every kind; returns when each has ended."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    end = time.monotonic() + seconds

    async def keep(kind: str, rate: float) -> None:
        pauses = random.Random(f"{kind} {seed}")
        calls = set[asyncio.Task[None]]()
        while True:
            left = end - time.monotonic()
            pause = pauses.expovariate(rate * load)
            await asyncio.sleep(max(0.0, min(pause, left)))
            if pause >= left:
                break
            call = asyncio.create_task(_call(kind, getattr(callers, kind), found))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)

    await asyncio.gather(*(keep(kind, rate) for kind, rate in RATES.items()))
    return found


async def _soak(server: ServerProcess, seconds: float, load: float, seed: int) -> Soaked:
    pid, looks, began = server.process.pid, list[Look](), time.monotonic()
    callers = Callers(server, seed)
    for model in MODELS:
        await callers.load(model)
    await asyncio.to_thread(server.wait_ready)

    async def watch() -> None:
        while True:
            looks.append(look(pid, time.monotonic() - began))
            if len(looks) % (LOOKS // 6) == 0:
                print(looks[-1], file=sys.stderr, flush=True)
            await asyncio.sleep(seconds / LOOKS)

    watching = asyncio.create_task(watch())
    found = await _callers(callers, load, seconds, seed)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert len(looks) > 1
    cores = usage(pid)[0] / (time.monotonic() - began)
    await callers.close()
    faults = [
        f"{kind}: {count} calls ended with {status}"
        for kind, counts in found.items()
        for status, count in counts.items()
        if status not in EXPECTED[kind]
    ]
    faults += grown(looks)
    faults += await asyncio.to_thread(_left, server)
    return Soaked({kind: dict(counts) for kind, counts in found.items()}, looks, faults, cores)


def _left(server: ServerProcess) -> list[str]:
    """What the server has left of calls that have ended."""
    end = time.monotonic() + PATIENCE
    uses = ("message", "decode", "batch", "answer")
    while True:
        held = {use: server.metric(f'convserve_memory_held_bytes{{use="{use}"}}') for use in uses}
        if not any(held.values()) or time.monotonic() > end:
            break
        time.sleep(0.1)  # between two looks at a condition that no event tells of
    faults = [f"{use}: {size:.0f} bytes are still held" for use, size in held.items() if size]
    errors = [line for line in server.log if line.get("level") in ("error", "critical")]
    return faults + [f"the log says: {line}" for line in errors]


def soak(seconds: float, load: float = 1.0, seed: int = 0) -> Soaked:
    """A server of its own under callers for so many seconds."""
    with tempfile.TemporaryDirectory() as name:
        repository = Path(name) / "models"
        publish_models(repository)
        flags = ("--allow-ungated", "--model-control", "explicit")
        server = ServerProcess(repository, *flags, cache=Path(name) / "cache")
        try:
            return asyncio.run(_soak(server, seconds, load, seed))
        finally:
            server.kill()


def table(soaked: Soaked) -> str:
    """Markdown."""
    looks = soaked.looks
    lines = ["| minute | memory, MiB | descriptors | threads |", "| --- | --- | --- | --- |"]
    for share in (0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1):
        one = looks[min(len(looks) - 1, int(share * len(looks)))]
        lines.append(f"| {one.at / 60:.1f} | {one.memory:.1f} | {one.files} | {one.threads} |")
    calls = sum(sum(counts.values()) for counts in soaked.statuses.values())
    lines += ["", f"{calls:,} calls; the server took {soaked.cores:.0%} of a core"]
    lines += [f"{kind}: {counts}" for kind, counts in soaked.statuses.items()]
    return "\n".join(lines)


def main() -> None:
    """Prints the table and the faults; exit status 1 where there are any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=1.0, help="multiple of 60 calls a second")
    parser.add_argument("--wire", default="native", choices=("native", "grpcio"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for everything")
    arguments = parser.parse_args()
    os.environ["CONVSERVE_WIRE"] = arguments.wire
    soaked = soak(arguments.minutes * 60, arguments.load, arguments.seed)
    print(table(soaked))
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(soaked)) + "\n")
    print("\n".join(["", *(soaked.faults or ["all held"])]))
    sys.exit(bool(soaked.faults))


if __name__ == "__main__":
    main()
