"""CPU that an engine process adds to a call, and its death under load.

    python -m benchmarks.serving.processes [--seconds 2] [--rounds 3] [--kills 100]

Cost: 1, 8 and 32 callers ask a network that takes next to no time, without a wire, so that only the
way to the batcher differs: in one process, and with an engine process. CPU time of both processes a
call, medians over rounds that alternate. `engine side` is the CPU of the engine process beyond that
of a batcher whose callers are callbacks in its own process. Kills: the engine process is killed at
random moments of a mixed load of 24 callers; every answer is checked by its value.

Exit status 1 where a bar is missed: at 32 callers 15 us a call in all and 5 at the engine side; one
wrong answer, one call without a status, one stale answer; files, memory files or resident memory
that grow from the first quarter of the kills to the end.
"""

import argparse
import asyncio
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import uvloop

from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.batching.port import BatchPort
from serving.batching.ticket import Answer
from serving.models.catalogue import Catalogue
from serving.models.servable import CallOptions, Servable
from serving.remote.front import supervisor
from serving.repository.places.repositories import Repositories
from serving.server.config import ServerConfig
from serving.server.runtime import Runtime
from tests.support.apart import apart, memory_files, mixed_calls, open_files
from tests.support.published import publish

CALLERS = (1, 8, 32)
ADDED_BAR, ENGINE_BAR = 15.0, 5.0
KILL_CALLERS = 24
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
# KiB that resident memory may grow by over three quarters of the kills.
GROWTH_KIB = 8 << 10

# Asks one call and returns with its answer.
Ask = Callable[[], Awaitable[object]]


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process so far, by its own clock."""
    return time.clock_gettime(~pid << 3 | 2)


async def cost(ask: Ask, callers: int, seconds: float, pids: list[int]) -> list[float]:
    """Microseconds of CPU a call of each process while so many callers ask."""
    calls, end = 0, time.monotonic() + seconds

    async def caller() -> None:
        nonlocal calls
        while time.monotonic() < end:
            await ask()
            calls += 1

    before = [cpu_of(pid) for pid in pids]
    await asyncio.gather(*(caller() for _ in range(callers)))
    return [(cpu_of(pid) - b) / calls * 1e6 for pid, b in zip(pids, before, strict=True)]


async def batcher_cost(port: BatchPort, callers: int, seconds: float) -> float:
    """Microseconds of CPU a call of a batcher whose callers are callbacks."""
    image, calls = np.zeros((1, 8, 8, 3), np.uint8), 0
    end, left = time.monotonic() + seconds, callers
    over = asyncio.get_running_loop().create_future()

    def ask(_: Answer | Exception) -> None:
        nonlocal calls, left
        calls += 1
        if time.monotonic() < end:
            port.submit(port.admit(1, 0, math.inf), [{"image": image}], ask)
        else:
            left -= 1
            if not left:
                over.set_result(None)

    before = cpu_of(os.getpid())
    for _ in range(callers):
        port.submit(port.admit(1, 0, math.inf), [{"image": image}], ask)
    await over
    return (cpu_of(os.getpid()) - before) / calls * 1e6


def infer(model: Servable) -> Ask:
    image = np.zeros((1, 8, 8, 3), np.uint8)
    options = CallOptions()
    return lambda: model.infer({"image": image}, 1, options)


async def measure(
    repository: Path, cache: Path, seconds: float, rounds: int
) -> dict[int, tuple[float, float, float, float]]:
    """By callers: CPU in one process, of front and engine process, and of the batcher alone."""
    metrics = FrontMetrics()
    config = ServerConfig(model_repository=repository, cache_dir=cache, engine="onnxruntime")
    found: dict[int, list[tuple[float, ...]]] = {callers: [] for callers in CALLERS}
    with ThreadPoolExecutor(1) as threads:
        catalogue = Catalogue(Repositories.of(repository), threads, metrics)
        runtime = Runtime(config, catalogue, EngineMetrics())
        runtime.start()
        await runtime.looked.wait()
        here = catalogue.get("colours")
        async with apart(repository, cache) as front:
            await front.ready()
            there = front.catalogue.get("colours")
            pids = [os.getpid(), front.pid]
            for _ in range(rounds):
                for callers in CALLERS:
                    [one] = await cost(infer(here), callers, seconds, pids[:1])
                    two = await cost(infer(there), callers, seconds, pids)
                    port: BatchPort = here._port  # type: ignore[attr-defined]
                    alone = await batcher_cost(port, callers, seconds)
                    found[callers].append((one, *two, alone))
        await runtime.close()
        await runtime.ended()
    return {
        callers: tuple(statistics.median(column) for column in zip(*rows, strict=True))  # type: ignore[misc]
        for callers, rows in found.items()
    }


def levels() -> tuple[int, int, int]:
    """Open files, memory files, resident KiB of this process."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_KIB
    return open_files(), memory_files(), resident


async def kill(repository: Path, cache: Path, kills: int) -> bool:
    """Kills the engine process so often. Prints the outcome; whether it is as it should be."""
    outcomes: Counter[str] = Counter()
    over, dice = asyncio.Event(), random.Random(1)
    async with apart(repository, cache) as front:
        await front.ready()
        asking = [
            asyncio.ensure_future(mixed_calls(front, seed, outcomes, over))
            for seed in range(KILL_CALLERS)
        ]
        back = []
        early = levels()
        for number in range(kills):
            await asyncio.sleep(dice.uniform(0, 0.3))
            await front.kill()
            begin = time.monotonic()
            await front.ready()
            back.append(time.monotonic() - begin)
            if number == kills // 4:
                early = levels()
        late = levels()
        over.set()
        await asyncio.gather(*asking)
        await front.until(lambda: not front.lent())
        stale = front.metrics.stale_answers.children()
    accepted = outcomes.pop("accepted")
    print(f"\n{kills} kills: {accepted} calls accepted, {dict(outcomes)}")
    print(f"back after {statistics.median(back):.2f} s (median), {max(back):.2f} s at most")
    print(f"files, memory files, KiB: {early} after a quarter, {late} at the end")
    grown = any(b - a > 8 for a, b in zip(early[:2], late[:2], strict=True))
    level = not grown and late[2] - early[2] <= GROWTH_KIB
    return outcomes.total() == accepted and not outcomes["wrong"] and not stale and level


def main() -> None:
    """Prints the table; exit status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository, cache = Path(folder) / "models", Path(folder) / "cache"
        publish(repository, max_batch_size=32)
        found = uvloop.run(measure(repository, cache, arguments.seconds, arguments.rounds))
        print("CPU us a call\n")
        print("| callers | one process | front | engine process | added | engine side |")
        print("| --- | --- | --- | --- | --- | --- |")
        good = True
        for callers, (one, front, engine, alone) in found.items():
            added, side = front + engine - one, engine - alone
            good &= callers < CALLERS[-1] or (added <= ADDED_BAR and side <= ENGINE_BAR)
            print(
                f"| {callers} | {one:.1f} | {front:.1f} | {engine:.1f} | {added:.1f} | {side:.1f} |"
            )
        if arguments.kills:
            supervisor._MOST_ENDS = arguments.kills + 1
            good &= uvloop.run(kill(repository, cache, arguments.kills))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
