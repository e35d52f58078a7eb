"""What is counted and told of the batches: statistics, the recent ones, an engine that is stuck."""

import asyncio
import math

import numpy as np
import pytest

from serving.base.metrics import EngineMetrics
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreShare, CoreTurns, Turn
from serving.repository.model_config import Batching
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.serving.batching.running import call, occupied, run


def test_statistics_count_calls_rows_and_batches() -> None:
    metrics = EngineMetrics()

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, 1, rows=2), call(batcher, 2)]
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*waiting)

    run(body, metrics=metrics)
    counters = metrics.counters("m", "1")
    assert (counters.executions.value, counters.inferences.value) == (2, 4)
    assert (counters.queue.count, counters.compute.compute_infer.count) == (3, 3)
    assert sorted(rows for (*_, rows), _ in metrics.by_size.children()) == ["1", "3"]
    assert counters.pending.value == 0


def test_recent_batches_say_what_was_decided() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, v) for v in range(6)]
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*waiting)
        assert [(r.rows, r.left_waiting) for r in batcher.recent] == [(1, 0), (4, 2), (2, 0)]
        assert [r.limited_by for r in batcher.recent] == ["empty", "full", "empty"]
        assert all(r.took >= r.infer > 0 and not r.failed for r in batcher.recent)
        assert all(0 <= r.cores_wait <= r.longest_wait for r in batcher.recent)

    run(body)


def test_recent_batches_tell_calls_that_do_not_fit_from_calls_of_another_shape() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, 1), call(batcher, 2, rows=4), call(batcher, 3)]
        ticket = batcher.admit(1, 0, math.inf)
        ticket.key = "another shape"
        await asyncio.sleep(0)
        other = {"x": np.full((1, 2), 4, np.float32)}
        waiting.append(asyncio.create_task(answered(batcher, ticket, [other])))
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*waiting)
        found = [(r.rows, r.limited_by) for r in batcher.recent]
        assert found == [(1, "empty"), (1, "next_call"), (4, "full"), (1, "shape"), (1, "empty")]

    run(body)


def test_recent_batches_tell_a_window_that_ended_from_one_that_was_filled() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await call(batcher, 1)
        await asyncio.gather(*(call(batcher, value) for value in range(4)))
        assert [(r.rows, r.limited_by) for r in batcher.recent] == [(1, "window"), (4, "full")]

    run(body, batching=Batching(max_queue_delay=0.02))


def test_recent_batches_tell_the_wait_for_cores_and_a_failure() -> None:
    turns, now = CoreTurns(8), 0.0

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        nonlocal now
        holds = Turn(CoreShare(), 8, 1.0, lambda _: None)
        turns.ask(holds, now)
        engine.failure = RuntimeError("broken")
        waiting = call(batcher, 1)
        await asyncio.sleep(0)
        now = 0.02
        turns.give_back(holds, now)
        with pytest.raises(Exception, match="broken"):
            await waiting
        [record] = batcher.recent
        assert record.cores_wait == pytest.approx(0.02)
        assert (record.failed, record.infer) == (True, 0.0)

    run(body, turns=turns, clock=lambda: now)


def test_stuck_engine_is_told_from_a_busy_one() -> None:
    now = 0.0

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        nonlocal now
        await occupied(batcher, engine)
        now = 20.0
        assert batcher.stuck_for() == 0
        now = 40.0
        assert batcher.stuck_for() == 40.0
        engine.hold.set()

    run(body, clock=lambda: now)
