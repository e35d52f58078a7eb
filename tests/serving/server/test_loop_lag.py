"""The heartbeat of a real event loop."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import uvloop

from serving.base.metrics import FrontMetrics
from serving.server import loop_lag
from serving.server.loop_lag import LoopLag


def beaten(work: Callable[[], Awaitable[None]]) -> tuple[list[int], list[float], float]:
    """Beats by bucket, the bounds of the buckets, and seconds without a core, of a loop that ran
    `work`."""
    metrics = FrontMetrics()

    async def run() -> None:
        lag = LoopLag(metrics)
        lag.start()
        await work()
        await asyncio.sleep(3 * loop_lag._PERIOD)  # for the beat that is late
        lag.stop()
        lag.stop()  # once more does no harm

    uvloop.run(run())
    child = metrics.loop_lag.labels()
    return child.counts, list(child.bounds), metrics.loop_starved.labels().value


async def blocked() -> None:
    time.sleep(0.2)


async def starved() -> None:
    """Shares one core with a process that never sleeps."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            await asyncio.sleep(0)
    finally:
        child.kill()
        child.wait()
        os.sched_setaffinity(0, before)


def test_a_blocked_loop_shows_as_one_late_beat() -> None:
    counts, bounds, _ = beaten(blocked)
    late = sum(count for bound, count in zip([*bounds, 60.0], counts, strict=True) if bound > 0.1)
    assert late == 1


def test_time_without_a_core_is_counted_apart() -> None:
    _, _, seconds = beaten(starved)
    assert seconds > 0.1
