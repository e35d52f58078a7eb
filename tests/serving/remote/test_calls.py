"""The records between a front and an engine process, both sides in one process."""

import asyncio
import math
import random
import time

import numpy as np
import pytest

from serving.base.errors import (
    DeadlineExpired,
    EngineError,
    EngineRestarts,
    ModelNotReady,
    QueueFull,
    Shed,
)
from serving.batching.ticket import Answer, Ticket
from serving.remote import records
from serving.remote.records import Record
from serving.remote.slots import SlotState
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.serving.remote.pair import Pair, pair


def test_calls_of_many_shapes_get_their_own_answers_and_give_their_slots_back() -> None:
    async def run() -> None:
        async with pair() as both:
            asked = [(float(number), 1 + number % 8) for number in range(200)]
            found = await asyncio.gather(*(both.ask(*one) for one in asked))
            assert found == [[2 * value] * rows for value, rows in asked]
            assert both.reasons == []
            assert both.metrics.stale_answers.children() == []

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(6))
def test_slots_add_up_whatever_happens_in_whatever_order(seed: int) -> None:
    async def run() -> None:
        dice = random.Random(seed)
        async with pair() as both:
            calls: dict[asyncio.Task[list[float]], float] = {}
            for number in range(120):
                step = dice.random()
                if step < 0.6:
                    soon = time.monotonic() + 0.02 if step < 0.1 else math.inf
                    task = asyncio.ensure_future(both.ask(number, dice.randint(1, 4), soon))
                    calls[task] = number
                elif step < 0.7 and calls:
                    dice.choice(list(calls)).cancel()
                elif step < 0.78:
                    both.engine.hold.clear()
                elif step < 0.9:
                    both.engine.hold.set()
                elif step < 0.93:
                    both.die()
                    if dice.random() < 0.5:
                        await asyncio.sleep(0.005)  # calls come meanwhile
                    both.start()
                if step > 0.5:
                    await asyncio.sleep(0)
                slots = both.calls.slots
                total = sum(slab.count for slab in slots.slabs.values())
                free = [slot for slots_of in slots._free.values() for slot in slots_of]
                used, lent = both.states()
                assert len(free) + used == total
                assert lent <= used
                lending = [t.slot.state for t in both.calls._lent.values()]
                assert set(lending) <= {SlotState.LENT}
            both.engine.hold.set()
            for task, number in calls.items():
                [outcome] = await asyncio.gather(task, return_exceptions=True)
                if isinstance(outcome, list):
                    assert set(outcome) == {2 * number}
                else:
                    kinds = DeadlineExpired | EngineRestarts | EngineError | Shed
                    assert isinstance(outcome, kinds | asyncio.CancelledError), repr(outcome)
            assert both.metrics.stale_answers.children() == []

    asyncio.run(run())


def test_calls_that_ran_at_a_crash_run_alone_and_end_at_a_second_one() -> None:
    async def run() -> None:
        async with pair() as both:
            both.engine.hold.clear()
            first = [asyncio.ensure_future(both.ask(value)) for value in range(3)]
            await both.until(lambda: both.engine.batches)
            waiting = [asyncio.ensure_future(both.ask(value)) for value in range(3, 9)]
            await both.until(lambda: both.batcher._waiting.rows >= 6)
            running = sum(map(len, both.engine.batches))
            both.die()
            both.engine = FakeEngine()
            both.engine.hold.clear()
            both.start()
            await both.until(lambda: both.engine.batches)
            assert len(both.engine.batches[0]) == 6 + 3 - running or running > 1
            both.engine.hold.set()
            found = await asyncio.gather(*first, *waiting)
            assert found == [[2.0 * value] for value in range(9)]
            # Each of those that ran was by itself.
            assert sorted(map(len, both.engine.batches))[:running] == [1] * running
            both.engine.hold.clear()
            deadly = asyncio.ensure_future(both.ask(66))
            for _ in range(2):
                count = len(both.engine.batches)
                await both.until(lambda count=count: len(both.engine.batches) > count)
                both.die()
                both.start()
            with pytest.raises(EngineError, match=r"SHA-256 [0-9a-f]{16}"):
                await deadly

    asyncio.run(run())


def test_a_call_without_an_answer_knows_the_batch_in_which_it_was() -> None:
    async def run() -> None:
        async with pair() as both:
            asked = time.monotonic()

            def submitted() -> tuple[Ticket, asyncio.Task[Answer]]:
                assert both.port is not None
                ticket = both.port.admit(2, 0, math.inf)
                parts = [{"x": np.ones((2, 2), np.float32)}]
                return ticket, asyncio.ensure_future(answered(both.port, ticket, parts))

            both.engine.failure = RuntimeError("broken")
            failed, task = submitted()
            with pytest.raises(EngineError):
                await task
            both.engine.failure = None
            both.engine.hold.clear()
            deadly, task = submitted()
            for _ in range(2):
                count = len(both.engine.batches)
                await both.until(lambda count=count: len(both.engine.batches) > count)
                both.die()
                both.start()
            with pytest.raises(EngineError, match="died twice"):
                await task
            for ticket in (failed, deadly):
                timing = ticket.timing
                assert (timing.batch_size, timing.began) == (2, 0)
                assert asked < timing.started < time.monotonic()
            assert failed.timing.started < deadly.timing.started

    asyncio.run(run())


def test_a_call_near_its_limit_is_refused_before_it_has_inputs() -> None:
    async def run() -> None:
        async with pair(latency={1: 0.1, 8: 0.2}) as both:
            port = both.port
            assert port is not None
            ticket = port.admit(1, 0, time.monotonic() + 0.05)
            with pytest.raises(Shed) as refused:
                await port.confirm(ticket)
            assert refused.value.retry_after > 0
            port.withdraw(ticket)
            certain = port.admit(1, 0, time.monotonic() + 0.3)
            await port.confirm(certain)
            assert both.batcher._waiting.rows == 1  # its place is reserved
            port.withdraw(certain)
            await both.until(lambda: not both.batcher._waiting.rows)
            far = port.admit(1, 0, time.monotonic() + 100)
            await port.confirm(far)
            assert both.batcher._waiting.rows == 0
            port.withdraw(far)

    asyncio.run(run())


@pytest.mark.parametrize("left", [0.3, 100])  # seconds: near a limit, its place is reserved
def test_a_call_may_come_with_fewer_rows_than_it_was_admitted_with(left: float) -> None:
    async def run() -> None:
        async with pair(latency={1: 0.02, 8: 0.04}) as both:
            port = both.port
            assert port is not None
            ticket = port.admit(5, 0, time.monotonic() + left)
            await port.confirm(ticket)
            port.shrink(ticket, 2)
            answer = await answered(port, ticket, [{"x": np.full((2, 2), 3, np.float32)}])
            assert answer.outputs["y"].tolist() == [[6, 6], [6, 6]]
            assert answer.timing.batch_size == 2
            assert (both.batcher._waiting.rows, port.open_rows) == (0, 0)

    asyncio.run(run())


def test_a_full_queue_refuses_as_it_does_in_one_process() -> None:
    async def run() -> None:
        async with pair("default_queue_policy { max_queue_size: 2 }") as both:
            both.engine.hold.clear()
            first = asyncio.ensure_future(both.ask(1))
            await both.until(lambda: both.engine.batches)
            others = [asyncio.ensure_future(both.ask(value)) for value in range(2, 6)]
            await both.until(lambda: sum(task.done() for task in others) == 2)
            both.engine.hold.set()
            outcomes = await asyncio.gather(first, *others, return_exceptions=True)
            assert sum(isinstance(outcome, QueueFull) for outcome in outcomes) == 2

    asyncio.run(run())


def test_a_version_is_left_when_its_last_call_has_inputs() -> None:
    async def run() -> None:
        async with pair() as both:
            port = both.port
            assert port is not None
            ticket = port.admit(1, 0, math.inf)
            left = asyncio.ensure_future(both.served.left(both.batcher, 10))
            port.retire()
            with pytest.raises(ModelNotReady):
                port.admit(1, 0, math.inf)
            assert not left.done()
            x = np.ones((1, 2), np.float32)
            answer = await answered(port, ticket, [{"x": x}])
            assert answer.outputs["y"].tolist() == [[2, 2]]
            await asyncio.wait_for(left, 10)

    asyncio.run(run())


def test_calls_are_refused_while_there_is_no_hope_and_run_again_after_that() -> None:
    async def run() -> None:
        async with pair() as both:
            both.engine.hold.clear()
            call = asyncio.ensure_future(both.ask(1))
            await both.until(lambda: both.engine.batches)
            both.die()
            both.calls.gave_up("it ended too often")
            with pytest.raises(ModelNotReady, match="too often"):
                await call
            with pytest.raises(ModelNotReady, match="too often"):
                await both.ask(2)
            both.engine.hold.set()
            # A process that is dead writes no more; this thread has to end for that.
            await both.batcher.drain(20.0)
            both.start()
            assert await both.ask(3) == [6]
            both.die()
            waiting = asyncio.ensure_future(both.ask(4))
            await asyncio.sleep(0)
            both.start()
            assert await waiting == [8]

    asyncio.run(run())


def test_a_reserved_place_of_a_version_that_is_unloaded_meanwhile_is_refused() -> None:
    async def run() -> None:
        async with pair(latency={1: 0.1, 8: 0.2}) as both:
            port = both.port
            assert port is not None
            ticket = port.admit(1, 0, time.monotonic() + 0.3)
            await port.confirm(ticket)
            await both.batcher.drain(0)
            with pytest.raises(ModelNotReady, match="unloaded"):
                await answered(port, ticket, [{"x": np.ones((1, 2), np.float32)}])

    asyncio.run(run())


def hostile(both: Pair) -> list[Record]:
    """Records that no honest front sends, each wrong in one field."""
    assert both.port is not None
    slab = next(iter(both.calls.slots.slabs.values()))
    good = Record(
        records.SUBMIT, model=both.port.number, call=1 << 40, slab=slab.number, rows=1, size=8,
        room=8,
    )  # fmt: skip
    return [
        good._replace(slab=99),
        good._replace(slot=slab.count),
        good._replace(slot=0xFFFF),
        good._replace(size=slab.size + 1),
        good._replace(size=0xFFFFFFFF, room=0xFFFFFFFF),
        good._replace(room=slab.size),
        good._replace(size=4),
        good._replace(rows=0),
        good._replace(rows=9),
        good._replace(model=77),
        good._replace(deadline=math.nan),
        good._replace(flags=records.DESCRIBED),
        good._replace(flags=records.RESERVED, slab=99),
    ]


def test_records_that_leave_their_bounds_end_one_call_and_touch_no_other() -> None:
    async def run() -> None:
        async with pair() as both:
            assert await both.ask(1) == [2]  # a slab is there
            for record in hostile(both):
                both.back._received(record.packed(), ())
                assert both.served._calls == {}
            assert await both.ask(2) == [4]
            assert both.reasons == []
            # The front knows none of those calls.
            stale = both.metrics.stale_answers.labels().value
            assert stale == len(hostile(both))

    asyncio.run(run())


@pytest.mark.parametrize(
    "record",
    [
        Record(99),
        Record(records.SLAB, slab=5, slot=1, size=4096),
        Record(records.ANSWER),
    ],
)
def test_a_front_that_speaks_nonsense_is_cut(record: Record) -> None:
    async def run() -> None:
        async with pair() as both:
            both.channel.send(record.packed())
            await both.until(lambda: both.reasons)
            assert "it sent" in both.reasons[0]

    asyncio.run(run())


@pytest.mark.parametrize("change", [{"size": 1 << 30}, {"flags": records.DESCRIBED}])
def test_an_engine_side_that_leaves_the_slot_is_cut(change: dict[str, int]) -> None:
    async def run() -> None:
        both = Pair()
        both.start()
        both.engine.hold.clear()
        call = asyncio.ensure_future(both.ask(1))
        await both.until(lambda: both.engine.batches)
        [ticket] = both.calls._lent.values()
        slot = ticket.slot
        answer = Record(
            records.ANSWER, call=ticket.number, slab=slot.slab.number, slot=slot.index,
            generation=slot.generation, rows=1, deadline=0.0, timeout=0.0, size=8,
        )  # fmt: skip
        stale = answer._replace(generation=slot.generation + 1)
        both.back.send(stale.packed())
        await both.until(lambda: both.metrics.stale_answers.labels().value == 1)
        assert not call.done()
        both.back.send(answer._replace(**change).packed())
        await both.until(lambda: both.reasons)
        assert "it sent" in both.reasons[0]
        both.engine.hold.set()
        call.cancel()
        both.batcher.close()
        both.back.close()

    asyncio.run(run())
