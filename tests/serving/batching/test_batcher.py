"""When a batch starts, which calls share it, and whose its answers are."""

import asyncio
import math
import threading

import numpy as np
import pytest

from serving.base.metrics import EngineMetrics
from serving.base.tensor import TensorSpec
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreTurns
from serving.batching.latency import LatencyTable
from serving.repository.model_config import Batching
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.serving.batching.running import call, occupied, run, until


def test_batch_starts_at_once_when_an_instance_is_free() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        answer = await call(batcher, 3)
        assert answer.outputs["y"].tolist() == [[6, 6]]
        assert answer.timing.batch_size == 1

    run(body)


def test_calls_that_wait_share_the_next_batch() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, value) for value in (1, 2, 3)]
        await asyncio.sleep(0)
        engine.hold.set()
        answers = await asyncio.gather(*waiting)
        assert engine.batches == [[0], [1, 2, 3]]
        assert [a.outputs["y"][0, 0] for a in answers] == [2, 4, 6]
        assert {a.timing.batch_size for a in answers} == {3}

    run(body)


def test_short_batch_waits_for_calls_that_come_in_the_next_rounds_of_the_loop() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        waiting = []
        for value in (1, 2, 3):
            waiting.append(call(batcher, value))
            for _ in range(3):
                await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        alone = call(batcher, 4)
        await alone
        assert engine.batches == [[1, 2, 3], [4]]

    run(body, inline_seconds=0.01)


@pytest.mark.parametrize(("columns", "inline"), [(2, True), (1 << 20, False)])
def test_large_inputs_of_a_size_that_was_not_measured_run_beside_the_event_loop(
    columns: int, inline: bool
) -> None:
    async def run_one() -> None:
        engine = FakeEngine()
        engine.inputs = (TensorSpec("x", "FP32", (-1, -1)),)
        batcher = DynamicBatcher(
            engine,
            model="m",
            version="1",
            max_batch_size=4,
            batching=Batching(),
            instances=1,
            latency=LatencyTable({1: 0.001, 4: 0.002}),
            metrics=EngineMetrics(),
            turns=CoreTurns(1),
            cores=1,
            inline_seconds=0.01,
        )
        ticket = batcher.admit(1, 0, math.inf)
        await answered(batcher, ticket, [{"x": np.zeros((1, columns), np.float32)}])
        assert (engine.threads == [threading.get_ident()]) is inline
        assert await batcher.drain(10)
        batcher.close()

    asyncio.run(run_one())


def test_short_batch_that_is_full_does_not_wait() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        waiting = [call(batcher, value) for value in (1, 2, 3, 4)]
        for _ in range(4):
            await asyncio.sleep(0)
        assert engine.batches == [[1, 2, 3, 4]]
        await asyncio.gather(*waiting)

    run(body, inline_seconds=0.01)


def test_call_that_comes_in_parts_is_answered_as_one() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        mate = call(batcher, 9)
        ticket = batcher.admit(3, 0, math.inf)
        parts = [{"x": np.full((rows, 2), rows, np.float32)} for rows in (1, 2)]
        parted = asyncio.create_task(answered(batcher, ticket, parts))
        await asyncio.sleep(0)
        engine.hold.set()
        assert (await parted).outputs["y"][:, 0].tolist() == [2, 4, 4]
        assert (await mate).outputs["y"].tolist() == [[18, 18]]
        assert engine.batches[1:] == [[9, 1, 2, 2]]

    run(body)


def test_answers_belong_to_their_callers_after_the_next_batch() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        first = await call(batcher, 1)
        await call(batcher, 50)
        assert first.outputs["y"].tolist() == [[2, 2]]

    run(body)


def test_batch_waits_for_company_only_as_long_as_configured() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        first, second = call(batcher, 1), call(batcher, 2)
        await asyncio.gather(first, second)
        assert engine.batches == [[1, 2]]

    run(body, batching=Batching(max_queue_delay=0.05))


def test_more_urgent_priority_goes_first() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, v, priority=p) for v, p in ((1, 2), (2, 2), (3, 1), (4, 1))]
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*waiting)
        assert engine.batches[1:] == [[3, 4], [1, 2]]

    run(body, max_batch_size=2, batching=Batching(priority_levels=2, default_priority=2))


def test_earlier_deadline_goes_first() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, v, timeout=t) for v, t in ((1, 9), (2, 5), (3, 7))]
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*waiting)
        assert engine.batches[1:] == [[2], [3], [1]]

    run(body, max_batch_size=1, latency=LatencyTable({1: 0.001}))


def test_several_instances_run_side_by_side() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        engine.hold.clear()
        calls = [call(batcher, value) for value in range(2)]
        await until(lambda: engine.running == 2)
        engine.hold.set()
        await asyncio.gather(*calls)
        assert engine.most_at_once == 2

    run(body, instances=2, max_batch_size=1)
