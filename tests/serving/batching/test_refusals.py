"""Calls that find no room, that cannot be met, or whose time is over while they wait."""

import asyncio
import math
import time

import numpy as np
import pytest

from serving.base.counting.totals import Totals
from serving.base.errors import DeadlineExpired, QueueFull, Shed
from serving.base.metrics import EngineMetrics
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreShare, CoreTurns, Turn
from serving.batching.latency import LatencyTable
from serving.repository.model_config import Batching, QueuePolicy
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.serving.batching.running import call, occupied, run, until


def test_call_expires_at_its_deadline_while_a_batch_runs() -> None:
    metrics = EngineMetrics()

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        late = call(batcher, 1, timeout=0.02)
        with pytest.raises(DeadlineExpired):
            await late
        # Its batch-mate to be is still being run: nobody waited for that.
        assert engine.running == 1
        engine.hold.set()
        assert (await call(batcher, 2)).outputs["y"].tolist() == [[4, 4]]
        assert [1.0] not in engine.batches

    run(body, metrics=metrics)
    assert Totals(metrics).registry.get_sample_value(
        "convserve_shed_total", {"model": "m", "reason": "expired"}
    ) == pytest.approx(1)


def test_full_queue_refuses_at_once_with_a_retry_delay() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, 1), call(batcher, 2)]
        with pytest.raises(QueueFull) as refusal:
            batcher.admit(1, 0, math.inf)
        assert refusal.value.retry_after > 0
        engine.hold.set()
        await asyncio.gather(*waiting)

    run(body, batching=Batching(default_policy=QueuePolicy(max_queue_size=2)))


def test_call_that_cannot_be_met_is_shed_on_arrival() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        with pytest.raises(Shed):
            batcher.admit(1, 0, time.monotonic() + 0.5)
        assert (await call(batcher, 1, timeout=20)).outputs["y"].tolist() == [[2, 2]]

    run(body, latency=LatencyTable({1: 1.0, 4: 1.0}))


def test_prediction_counts_only_what_goes_before_the_call() -> None:
    slow = LatencyTable({1: 0.02, 4: 0.02})

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        # Ten batches without a deadline: one that has a deadline goes before them.
        waiting = [call(batcher, value, priority=2) for value in range(1, 41)]
        waiting.append(call(batcher, 99, priority=2, timeout=0.15))
        # Ten more urgent ones: it goes after them.
        waiting += [call(batcher, value, priority=1) for value in range(41, 81)]
        with pytest.raises(Shed):
            call(batcher, 98, priority=2, timeout=0.15)
        waiting.append(call(batcher, 97, priority=1, timeout=0.15))
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*waiting)
        assert engine.batches[1][0] == 97
        assert engine.batches[11][1] == 99

    run(body, latency=slow, batching=Batching(priority_levels=2, default_priority=2))


def test_prediction_counts_the_turns_that_other_models_take() -> None:
    turns, other, now = CoreTurns(1), CoreShare(), [time.monotonic()]

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        for _ in range(30):
            turn = Turn(other, 1, 10.0, lambda _: None)
            turns.ask(turn, now[0])
            waiting = call(batcher, 1)
            await asyncio.sleep(0)
            now[0] += 10.0
            turns.give_back(turn, now[0])
            await waiting
        await occupied(batcher, engine)
        for value in range(4):
            call(batcher, value, timeout=now[0] + 4 - time.monotonic())
        await asyncio.sleep(0)
        # A batch of some milliseconds goes before the call, and a turn of the other's between them.
        with pytest.raises(Shed, match=r"needs about 8\d\d\d\.\d ms, 5000\.0 ms are left"):
            batcher.admit(1, 0, now[0] + 5)

    run(body, turns=turns, clock=lambda: now[0])


def test_queue_of_each_priority_has_room_of_its_own() -> None:
    policies = {1: QueuePolicy(max_queue_size=1), 2: QueuePolicy(max_queue_size=2)}
    batching = Batching(priority_levels=2, default_priority=2, priority_policies=policies)

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        # Room is for calls, however many rows each has.
        waiting = [call(batcher, value, rows=3, priority=2) for value in (1, 2)]
        with pytest.raises(QueueFull, match="2 of 2 places"):
            call(batcher, 3, priority=2)
        waiting.append(call(batcher, 4, priority=1))
        with pytest.raises(QueueFull, match="1 of 1 places"):
            call(batcher, 5, priority=1)
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        waiting.append(call(batcher, 6, priority=2))
        engine.hold.set()
        await asyncio.gather(*waiting[1:])
        call(batcher, 7, priority=1)

    run(body, batching=batching)


def test_timeout_that_delays_puts_a_call_behind_the_others_of_its_priority() -> None:
    delaying = QueuePolicy(timeout_delays=True, allow_timeout_override=True)
    batching = Batching(default_policy=delaying)

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        timeouts = (0.01, math.inf, math.inf, math.inf, math.inf)
        tickets = [batcher.admit(1, 0, math.inf, timeout) for timeout in timeouts]
        tasks = [
            asyncio.create_task(
                answered(batcher, ticket, [{"x": np.full((1, 2), value, np.float32)}])
            )
            for value, ticket in enumerate(tickets, 1)
        ]
        await until(lambda: tickets[0].rank[-1] == math.inf)
        engine.hold.set()
        answers = await asyncio.gather(*tasks)
        assert engine.batches == [[0], [2, 3, 4, 5], [1]]
        assert answers[0].outputs["y"].tolist() == [[2, 2]]

    run(body, batching=batching)


def test_timeout_of_a_call_counts_only_where_its_policy_allows_it() -> None:
    policies = {
        1: QueuePolicy(default_timeout=30.0, allow_timeout_override=True),
        2: QueuePolicy(default_timeout=30.0, allow_timeout_override=False),
    }
    batching = Batching(priority_levels=2, default_priority=2, priority_policies=policies)

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        now = time.monotonic()
        allowed = batcher.admit(1, 1, math.inf, 5.0)
        assert allowed.deadline == pytest.approx(now + 5, abs=1)
        fixed = batcher.admit(1, 2, math.inf, 5.0)
        assert fixed.deadline == pytest.approx(now + 30, abs=1)
        # When the caller gives up counts in any case.
        gone = batcher.admit(1, 2, now + 2)
        assert gone.deadline == now + 2
        for ticket in (allowed, fixed, gone):
            batcher.withdraw(ticket)

    run(body, batching=batching)


def test_withdrawn_ticket_gives_its_place_back() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        for _ in range(5):
            batcher.withdraw(batcher.admit(1, 0, math.inf))
        assert (await call(batcher, 1)).timing.batch_size == 1

    run(body, batching=Batching(default_policy=QueuePolicy(max_queue_size=1)))


def test_slo_sheds_on_arrival_but_does_not_expire_what_was_accepted() -> None:
    now = 0.0

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        nonlocal now
        await occupied(batcher, engine)
        accepted = call(batcher, 1)
        await asyncio.sleep(0)
        now = 0.08
        with pytest.raises(Shed):
            batcher.admit(4, 0, math.inf)
        engine.hold.set()
        assert (await accepted).outputs["y"].tolist() == [[2, 2]]

    run(body, slo=0.05, latency=LatencyTable({1: 0.02, 4: 0.06}), clock=lambda: now)


def test_batch_on_another_device_is_waited_for_though_it_takes_no_core() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        with pytest.raises(Shed):
            batcher.admit(1, 0, 0.7)
        engine.hold.set()

    run(body, cores=0, latency=LatencyTable({1: 0.5, 4: 0.5}), clock=lambda: 0.0)
