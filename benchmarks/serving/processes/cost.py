"""CPU that an engine process adds to a call."""

import asyncio
import math
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.batching.port import BatchPort
from serving.batching.ticket import Answer
from serving.models.catalogue import Catalogue
from serving.models.servable import CallOptions, Servable
from serving.models.workers import Workers
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


class Cost(NamedTuple):
    """Microseconds a call.

    one: CPU in one process.
    front, engine: CPU of both where there are two.
    alone: CPU of the batcher with callbacks for callers.
    colder: time of a batch, gathered and run, in the engine process beyond that with `alone`: the
        same code, with less of it in the caches.
    """

    one: float
    front: float
    engine: float
    alone: float
    colder: float


async def batch_time(port: BatchPort) -> float:
    """Microseconds a row of the newest batches, by the median."""
    return statistics.median(b.took / b.rows for b in await port.recent_batches()) * 1e6


async def measure(repository: Path, cache: Path, seconds: float, rounds: int) -> dict[int, Cost]:
    """The cost by callers."""
    metrics = FrontMetrics()
    config = ServerConfig(model_repository=repository, cache_dir=cache, engine="onnxruntime")
    found: dict[int, list[Cost]] = {callers: [] for callers in CALLERS}
    with Workers(1) as workers:
        catalogue = Catalogue(Repositories.of(repository), workers, metrics)
        runtime = Runtime(config, catalogue, EngineMetrics())
        runtime.start()
        await runtime.looked.wait()
        here = catalogue.get("colours")
        async with apart(repository, cache) as front:
            await front.ready()
            there = front.catalogue.get("colours")
            port: BatchPort = here._port  # type: ignore[attr-defined]
            other: BatchPort = there._port  # type: ignore[attr-defined]
            pids = [os.getpid(), front.pid]
            for _ in range(rounds):
                for callers in CALLERS:
                    [one] = await cost(infer(here), callers, seconds, pids[:1])
                    two = await cost(infer(there), callers, seconds, pids)
                    cold = await batch_time(other)
                    alone = await batcher_cost(port, callers, seconds)
                    found[callers].append(Cost(one, *two, alone, cold - await batch_time(port)))
        await runtime.close()
        await runtime.ended()
    return {
        callers: Cost._make(statistics.median(column) for column in zip(*rows, strict=True))
        for callers, rows in found.items()
    }


def faults(found: dict[int, Cost]) -> list[str]:
    """Prints the table; the bars that are missed."""
    print("CPU us a call\n")
    print("| callers | one process | front | engine process | added | engine side | colder batch |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    missed = []
    for callers, each in found.items():
        added, side = each.front + each.engine - each.one, each.engine - each.alone
        shown = (each.one, each.front, each.engine, added, side, each.colder)
        print(f"| {callers} | {' | '.join(f'{us:.1f}' for us in shown)} |")
        if callers == CALLERS[-1]:
            bars = (("added", added, ADDED_BAR), ("engine side", side, ENGINE_BAR))
            missed += [
                f"{name}: {us:.1f} us, at most {bar:g}" for name, us, bar in bars if us > bar
            ]
    return missed
