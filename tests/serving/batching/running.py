"""A batcher on a fake engine, and the calls that a test makes of it."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from serving.base.metrics import EngineMetrics
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreTurns
from serving.batching.latency import LatencyTable
from serving.batching.ticket import Answer
from serving.repository.model_config import Batching
from tests.serving.batching.fake_engine import FakeEngine, answered

Test = Callable[[DynamicBatcher, FakeEngine], Coroutine[Any, Any, None]]


def run(
    test: Test,
    *,
    metrics: EngineMetrics | None = None,
    turns: CoreTurns | None = None,
    **options: Any,
) -> None:
    """Runs a test on a batcher of a fake engine, and frees it."""
    engine = FakeEngine()
    settings: dict[str, Any] = {
        "max_batch_size": 4,
        "batching": Batching(),
        "instances": 1,
        "cores": 1,
        "latency": LatencyTable({1: 0.001, 4: 0.002}),
    } | options

    async def body() -> None:
        batcher = DynamicBatcher(
            engine,
            model="m",
            version="1",
            metrics=metrics or EngineMetrics(),
            turns=turns or CoreTurns(8),
            **settings,
        )
        try:
            await test(batcher, engine)
        finally:
            engine.hold.set()
            assert await batcher.drain(10)
            batcher.close()

    asyncio.run(asyncio.wait_for(body(), 30))


def call(
    batcher: DynamicBatcher,
    value: float,
    *,
    rows: int = 1,
    priority: int = 0,
    timeout: float = math.inf,
) -> asyncio.Task[Answer]:
    """A call whose input is `value` everywhere, on its way."""
    ticket = batcher.admit(rows, priority, time.monotonic() + timeout)
    inputs = {"x": np.full((rows, 2), value, np.float32)}
    return asyncio.create_task(answered(batcher, ticket, [inputs]))


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds."""
    while not condition():
        await asyncio.sleep(0.001)


async def occupied(batcher: DynamicBatcher, engine: FakeEngine) -> asyncio.Task[Answer]:
    """Keeps the only instance busy until `engine.hold` is set; its batch is engine.batches[0]."""
    engine.hold.clear()
    first = call(batcher, 0)
    await until(lambda: engine.running == 1)
    return first
