"""CPU that an engine process adds to a call."""

import asyncio
import math
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.batching.port import BatchPort
from serving.batching.ticket import Answer
from serving.models.catalogue import Catalogue
from serving.models.servable import CallOptions, Servable
from serving.repository.places.repositories import Repositories
from serving.server.config import ServerConfig
from serving.server.runtime import Runtime
from tests.support.apart import apart

CALLERS = (1, 8, 32)
ADDED_BAR, ENGINE_BAR = 15.0, 5.0

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


def faults(found: dict[int, tuple[float, float, float, float]]) -> list[str]:
    """Prints the table; the bars that are missed."""
    print("CPU us a call\n")
    print("| callers | one process | front | engine process | added | engine side |")
    print("| --- | --- | --- | --- | --- | --- |")
    missed = []
    for callers, (one, front, engine, alone) in found.items():
        added, side = front + engine - one, engine - alone
        print(f"| {callers} | {one:.1f} | {front:.1f} | {engine:.1f} | {added:.1f} | {side:.1f} |")
        if callers == CALLERS[-1]:
            bars = (("added", added, ADDED_BAR), ("engine side", side, ENGINE_BAR))
            missed += [
                f"{name}: {us:.1f} us, at most {bar:g}" for name, us, bar in bars if us > bar
            ]
    return missed
