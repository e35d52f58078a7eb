"""Drains and ends: what was accepted is answered, or fails, and no more is taken."""

import asyncio
import math
from collections.abc import Callable

import numpy as np
import pytest

from serving.base.errors import ModelNotReady
from serving.base.metrics import EngineMetrics
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreTurns
from serving.batching.latency import LatencyTable
from serving.batching.ticket import Answer
from serving.repository.model_config import Batching
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.serving.batching.house import CORES, House
from tests.serving.batching.running import call, occupied, run


def test_drain_answers_what_was_accepted_and_takes_no_more() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        first = await occupied(batcher, engine)
        waiting = call(batcher, 1)
        await asyncio.sleep(0)
        drained = asyncio.create_task(batcher.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(ModelNotReady):
            batcher.admit(1, 0, math.inf)
        assert not drained.done()
        engine.hold.set()
        assert await drained
        assert first.done()
        assert waiting.done()

    run(body)


def test_drain_reports_a_time_out() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        assert not await batcher.drain(0.01)

    run(body)


def batcher_on_threads(engine: FakeEngine, turns: CoreTurns) -> DynamicBatcher:
    return DynamicBatcher(
        engine,
        model="m",
        version="1",
        max_batch_size=1,
        batching=Batching(),
        instances=1,
        latency=LatencyTable({1: 0.001}),
        metrics=EngineMetrics(),
        turns=turns,
        cores=CORES,
    )


async def four_calls(batcher: DynamicBatcher, engine: FakeEngine) -> list[asyncio.Task[Answer]]:
    """One runs until `engine.hold` is set, three wait."""
    engine.hold.clear()
    inputs = {"x": np.ones((1, 2), np.float32)}
    tickets = [batcher.admit(1, 0, math.inf) for _ in range(4)]
    calls = [asyncio.create_task(answered(batcher, ticket, [inputs])) for ticket in tickets]
    while not engine.running:
        await asyncio.sleep(0.001)
    return calls


async def close(batcher: DynamicBatcher) -> None:
    """As the registry does it."""
    await asyncio.get_running_loop().run_in_executor(None, batcher.close)


@pytest.mark.parametrize("cancelled", [False, True], ids=["timed out", "cancelled"])
def test_calls_that_wait_when_a_drain_ends_early_fail_and_the_cores_come_back(
    cancelled: bool,
) -> None:
    async def body() -> None:
        engine, turns = FakeEngine(), CoreTurns(CORES)
        batcher = batcher_on_threads(engine, turns)
        calls = await four_calls(batcher, engine)
        decoding = batcher.admit(1, 0, math.inf)
        if cancelled:
            drain = asyncio.create_task(batcher.drain(10))
            await asyncio.sleep(0)
            drain.cancel()
            await asyncio.wait([drain])
            assert drain.cancelled()
        else:
            assert not await batcher.drain(0.01)
        # Before the threads stop, and though a batch runs.
        waiting = await asyncio.gather(*calls[1:], return_exceptions=True)
        assert [type(error) for error in waiting] == [ModelNotReady] * 3
        with pytest.raises(ModelNotReady):
            await answered(batcher, decoding, [{"x": np.zeros((1, 2), np.float32)}])
        batcher.withdraw(decoding)
        assert engine.running == 1
        engine.hold.set()
        await close(batcher)
        assert (await calls[0]).outputs["y"].tolist() == [[2, 2]]
        assert turns.free == CORES
        assert len(engine.batches) == 1
        # What runs was waited for by a second drain.
        assert await batcher.drain(0)

    asyncio.run(asyncio.wait_for(body(), 20))


def test_calls_that_are_left_when_the_threads_stop_fail() -> None:
    async def body() -> None:
        engine, turns = FakeEngine(), CoreTurns(CORES)
        batcher = batcher_on_threads(engine, turns)
        calls = await four_calls(batcher, engine)
        engine.hold.set()
        await close(batcher)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Answer] + [ModelNotReady] * 3
        assert turns.free == CORES

    asyncio.run(asyncio.wait_for(body(), 20))


def test_no_batch_runs_inline_once_the_engine_may_be_gone(house: Callable[[], House]) -> None:
    built = house()
    built.submit("inline", built.admit("inline"))
    built.advance()
    built.batchers["inline"].close()
    built.advance(0.03)
    [(_, task, _)] = built.calls
    assert isinstance(task.exception(), ModelNotReady)
    assert not built.engines["inline"].batches
    assert built.turns.free == CORES


def test_drain_does_not_wait_for_the_company_of_a_queue_delay(house: Callable[[], House]) -> None:
    built = house()
    for name, batcher in built.batchers.items():
        built.submit(name, built.admit(name))
        built.advance()
        drain = built.loop.create_task(batcher.drain(0.01))
        built.advance()
        built.work()
        assert drain.result()
    built.check_nothing_lost()
