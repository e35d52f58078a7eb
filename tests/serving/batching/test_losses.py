"""Nothing is lost on the way: no call stays without an answer and no turn on the cores is kept,
whatever fails between the grant of a turn and the answers."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving.batching.batcher import DynamicBatcher
from serving.batching.latency import LatencyTable
from serving.batching.ticket import Answer
from serving.batching.turns import CoreTurns
from serving.errors import ModelNotReady
from serving.metrics import Metrics
from serving.model_config import Batching
from tests.serving.batching.fake_engine import FakeEngine


def batcher_of(engine: FakeEngine, turns: CoreTurns, **options: Any) -> DynamicBatcher:
    settings: dict[str, Any] = {
        "max_batch_size": 1,
        "batching": Batching(),
        "instances": 1,
        "cores": 2,
        "latency": LatencyTable({1: 0.001}),
    } | options
    return DynamicBatcher(
        engine, model="m", version="1", metrics=Metrics(), turns=turns, **settings
    )


def submitted(batcher: DynamicBatcher, value: float = 1) -> asyncio.Task[Answer]:
    ticket = batcher.admit(1, 0, math.inf)
    inputs = {"x": np.full((1, 2), value, np.float32)}
    return asyncio.create_task(batcher.submit(ticket, inputs))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_calls_that_wait_when_a_drain_times_out_fail_and_the_cores_come_back() -> None:
    async def body() -> None:
        engine, turns = FakeEngine(), CoreTurns(2)
        batcher = batcher_of(engine, turns)
        engine.hold.clear()
        calls = [submitted(batcher) for _ in range(4)]
        decoding = batcher.admit(1, 0, math.inf)
        await until(lambda: engine.running == 1)
        assert not await batcher.drain(0.01)
        waiting = await asyncio.wait_for(asyncio.gather(*calls[1:], return_exceptions=True), 5)
        assert [type(error) for error in waiting] == [ModelNotReady] * 3
        with pytest.raises(ModelNotReady):
            await batcher.submit(decoding, {"x": np.zeros((1, 2), np.float32)})
        engine.hold.set()
        await asyncio.get_running_loop().run_in_executor(None, batcher.close)
        assert (await asyncio.wait_for(calls[0], 5)).outputs["y"].tolist() == [[2, 2]]
        assert turns.free == 2
        assert len(engine.batches) == 1

    asyncio.run(body())


def test_calls_that_wait_when_the_threads_stop_without_a_drain_fail() -> None:
    async def body() -> None:
        engine, turns = FakeEngine(), CoreTurns(2)
        batcher = batcher_of(engine, turns)
        engine.hold.clear()
        calls = [submitted(batcher) for _ in range(4)]
        await until(lambda: engine.running == 1)
        engine.hold.set()
        await asyncio.get_running_loop().run_in_executor(None, batcher.close)
        outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        assert [type(outcome) for outcome in outcomes] == [Answer] + [ModelNotReady] * 3
        assert turns.free == 2

    asyncio.run(body())
