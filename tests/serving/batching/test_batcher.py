import asyncio
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import numpy as np
import pytest

from serving.base.counting.totals import Totals
from serving.base.errors import DeadlineExpired, EngineError, ModelNotReady, QueueFull, Shed
from serving.base.metrics import EngineMetrics
from serving.base.tensor import Array, TensorSpec
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreShare, CoreTurns, Turn
from serving.batching.latency import LatencyTable
from serving.batching.ticket import Answer
from serving.repository.model_config import Batching, QueuePolicy
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


def test_batch_never_exceeds_its_size_and_rows_of_a_call_stay_together() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, v, rows=r) for v, r in ((1, 2), (2, 3), (3, 1), (4, 1))]
        await asyncio.sleep(0)
        engine.hold.set()
        answers = await asyncio.gather(*waiting)
        assert engine.batches[1:] == [[1, 1], [2, 2, 2, 3], [4]]
        assert [a.outputs["y"].shape for a in answers] == [(2, 2), (3, 2), (1, 2), (1, 2)]

    run(body)


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


def test_preferred_size_ends_the_wait() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await asyncio.gather(call(batcher, 1), call(batcher, 2))
        assert engine.batches == [[1, 2]]

    run(body, batching=Batching(max_queue_delay=600, preferred_batch_sizes=(2,)))


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


def test_cancelled_call_leaves_its_batch_mates_untouched() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        mates = [call(batcher, 1), call(batcher, 2), call(batcher, 3)]
        await asyncio.sleep(0)
        mates[1].cancel()
        await asyncio.sleep(0)
        engine.hold.set()
        answers = await asyncio.gather(*mates, return_exceptions=True)
        assert isinstance(answers[1], asyncio.CancelledError)
        assert engine.batches[1] == [1, 3]

    run(body)


def test_call_cancelled_while_it_runs_leaves_its_batch_mates_untouched() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        first = await occupied(batcher, engine)
        mates = [call(batcher, 1), call(batcher, 2)]
        await asyncio.sleep(0)
        engine.hold.set()
        await first
        engine.hold.clear()
        await until(lambda: len(engine.batches) == 2)
        mates[0].cancel()
        engine.hold.set()
        assert (await mates[1]).outputs["y"].tolist() == [[4, 4]]

    run(body)


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


def test_failed_batch_fails_its_members_and_the_next_one_runs() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        first = await occupied(batcher, engine)
        engine.failure = EngineError("out of memory")
        engine.hold.set()
        with pytest.raises(EngineError, match="out of memory"):
            await first
        engine.failure = None
        assert (await call(batcher, 2)).outputs["y"].tolist() == [[4, 4]]

    run(body)


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


def test_outcome_of_a_call_is_told_once_and_never_after_its_withdrawal() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        outcomes: dict[float, list[Answer | Exception]] = {1: [], 2: [], 3: [], 4: []}
        tickets = {value: batcher.admit(1, 0, math.inf) for value in outcomes}
        engine.hold.clear()
        for value, ticket in tickets.items():
            inputs = {"x": np.full((1, 2), value, np.float32)}
            batcher.submit(ticket, [inputs], outcomes[value].append)
            if value == 1:
                await until(lambda: engine.running == 1)
        batcher.withdraw(tickets[1])
        batcher.withdraw(tickets[3])
        engine.hold.set()
        await until(lambda: bool(outcomes[2] and outcomes[4]))
        batcher.withdraw(tickets[2])
        assert engine.batches == [[1], [2, 4]]
        assert (outcomes[1], outcomes[3]) == ([], [])
        for value in (2, 4):
            [answer] = outcomes[value]
            assert isinstance(answer, Answer)
            assert answer.outputs["y"].tolist() == [[2 * value] * 2]

    run(body)


def test_call_that_is_cancelled_while_its_batch_runs_inline_harms_no_other() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        gone, other = call(batcher, 1), call(batcher, 2)
        infer = engine.infer

        def cancelling(inputs: Mapping[str, Array]) -> dict[str, Array]:
            gone.cancel()
            return infer(inputs)

        engine.infer = cancelling  # type: ignore[method-assign]
        assert (await other).outputs["y"].tolist() == [[4, 4]]
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert engine.batches == [[1, 2]]

    run(body, inline_seconds=0.01)


def test_drain_reports_a_time_out() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        assert not await batcher.drain(0.01)

    run(body)


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


def test_no_answer_is_lost_doubled_or_swapped_under_cancels_and_deadlines() -> None:
    """5,000 calls of one to three rows, a third of them cancelled or with a short deadline."""
    chance = random.Random(7)

    async def caller(batcher: DynamicBatcher, value: float) -> str:
        fate = chance.random()
        try:
            task = call(
                batcher,
                value,
                rows=chance.randint(1, 3),
                priority=chance.randint(0, 2),
                timeout=0.002 if fate < 0.15 else 30,
            )
        except Shed:
            return "shed"
        if fate > 0.85:
            await asyncio.sleep(chance.random() * 0.002)
            task.cancel()
        try:
            answer = await task
        except asyncio.CancelledError:
            return "cancelled"
        except DeadlineExpired:
            return "expired"
        assert (answer.outputs["y"] == value * 2).all()
        return "answered"

    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        async def wave(begin: int) -> list[str]:
            callers: list[Awaitable[str]] = [
                caller(batcher, float(value)) for value in range(begin, begin + 250)
            ]
            return list(await asyncio.gather(*callers))

        outcomes = [outcome for i in range(20) for outcome in await wave(i * 250)]
        assert len(outcomes) == 5000
        assert outcomes.count("answered") > 3000

    run(
        body,
        instances=2,
        batching=Batching(priority_levels=2, default_policy=QueuePolicy(max_queue_size=10_000)),
        latency=LatencyTable({1: 1e-5, 4: 2e-5}),
    )


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


def test_batch_is_kept_small_enough_for_the_deadline_of_its_head() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, v, timeout=t) for v, t in ((1, 5.0), (2, 30), (3, 30), (4, 30))]
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*waiting)
        assert engine.batches[1:] == [[1, 2], [3, 4]]
        assert [r.limited_by for r in batcher.recent] == ["empty", "deadline", "empty"]

    run(body, latency=LatencyTable({1: 1e-3, 2: 2e-3, 4: 8.0}))


def linear() -> LatencyTable:
    """A row takes as long in every batch."""
    return LatencyTable({1: 0.001, 2: 0.002, 4: 0.004, 8: 0.008})


async def run_queued(batcher: DynamicBatcher, engine: FakeEngine, rows: list[int]) -> None:
    """Has calls of so many rows, of value 0, 1, ... each, wait together behind a first batch, and
    returns when they are answered."""
    await occupied(batcher, engine)
    waiting = [call(batcher, value, rows=count) for value, count in enumerate(rows)]
    await asyncio.sleep(0)
    engine.hold.set()
    await asyncio.gather(*waiting)


def test_where_smaller_batches_do_as_well_the_rest_goes_with_the_next() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await run_queued(batcher, engine, [1] * 7)
        assert engine.batches[1:] == [[0, 1, 2, 3], [4, 5], [6]]
        decided = [(r.rows, r.limit, r.limited_by, r.left_waiting) for r in batcher.recent]
        assert decided[1:] == [(4, 4, "size", 3), (2, 2, "size", 1), (1, 1, "empty", 0)]

    run(body, max_batch_size=8, latency=linear())


@pytest.mark.parametrize(
    ("rows", "decided"),
    [
        ([6, 1], [(6, "size"), (1, "empty")]),
        ([6], [(6, "empty")]),
        ([6, 3], [(6, "next_call"), (3, "empty")]),
    ],
)
def test_call_of_more_rows_than_the_good_size_is_not_cut(
    rows: list[int], decided: list[tuple[int, str]]
) -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await run_queued(batcher, engine, rows)
        assert [(r.rows, r.limited_by) for r in batcher.recent][1:] == decided

    run(body, max_batch_size=8, latency=linear())


def test_preferred_sizes_are_the_sizes_of_batches() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await run_queued(batcher, engine, [1] * 7)
        assert engine.batches[1:] == [[0, 1, 2, 3, 4], [5, 6]]

    preferred = Batching(preferred_batch_sizes=(3, 5))
    run(body, max_batch_size=8, latency=linear(), batching=preferred)


def test_what_a_batch_leaves_runs_on_another_free_instance() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        engine.hold.clear()
        waiting = [call(batcher, value) for value in range(3)]
        await until(lambda: engine.running == 2)
        engine.hold.set()
        await asyncio.gather(*waiting)
        assert sorted(engine.batches) == [[0, 1], [2]]

    run(body, max_batch_size=8, instances=2, latency=linear())


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
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        holds = Turn(CoreShare(), 8, 1.0, lambda _: None)
        turns.ask(holds, time.monotonic())
        engine.failure = RuntimeError("broken")
        waiting = call(batcher, 1)
        await asyncio.sleep(0.02)
        turns.give_back(holds, time.monotonic())
        with pytest.raises(Exception, match="broken"):
            await waiting
        [record] = batcher.recent
        assert record.cores_wait >= 0.015
        assert (record.failed, record.infer) == (True, 0.0)

    turns = CoreTurns(8)
    run(body, turns=turns)


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


def test_batch_on_another_device_is_waited_for_though_it_takes_no_core() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        with pytest.raises(Shed):
            batcher.admit(1, 0, 0.7)
        engine.hold.set()

    run(body, cores=0, latency=LatencyTable({1: 0.5, 4: 0.5}), clock=lambda: 0.0)
