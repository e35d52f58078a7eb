"""Callers share the batches: who floods delays nobody else by more than a batch."""

import asyncio
import math
import time

import numpy as np
import pytest

from serving.base.metrics import EngineMetrics
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreTurns
from serving.batching.latency import LatencyTable
from serving.batching.rounds import Rounds
from serving.batching.ticket import Ticket
from serving.repository.model_config import Batching
from tests.serving.batching.fake_engine import FakeEngine, answered

FLOODER, OTHER, THIRD = 1, 2, 3
ROWS = 4


def enter(rounds: Rounds, caller: int, rows: int = 1) -> Ticket:
    ticket = Ticket(rows, 1, 0.0, round=rounds.next(caller, rows))
    rounds.entered(caller, ticket)
    return ticket


def test_rows_of_a_caller_beyond_a_batch_go_into_later_rounds() -> None:
    rounds = Rounds(ROWS)
    assert [enter(rounds, FLOODER).round for _ in range(9)] == [0] * 4 + [1] * 4 + [2]
    assert [enter(rounds, OTHER, 3).round for _ in range(3)] == [0, 1, 2]
    # One call that is larger than a round has it alone.
    assert [enter(rounds, THIRD, rows).round for rows in (9, 1)] == [0, 1]


def test_newcomer_joins_the_round_of_the_batch_that_has_begun() -> None:
    rounds = Rounds(ROWS)
    flood = [enter(rounds, FLOODER) for _ in range(12)]
    rounds.begun(flood[4:8])
    assert enter(rounds, OTHER).round == 1
    # Who had his turn long ago has saved nothing up.
    rounds.begun(flood[8:])
    assert enter(rounds, OTHER).round == 2


def test_ten_thousand_callers_who_wait_are_not_looked_through_at_each_call() -> None:
    rounds = Rounds(ROWS)
    looks, known = 0, rounds._last
    for caller in range(1, 10_001):
        enter(rounds, caller)
        looks += rounds._last is not known
        known = rounds._last
    assert len(known) == 10_000
    assert looks <= 4


def test_rounds_begin_anew_when_nobody_waits_and_take_bounded_memory() -> None:
    rounds = Rounds(ROWS)
    for _ in range(100):
        enter(rounds, FLOODER)
    rounds.restart()
    assert enter(rounds, FLOODER).round == 0
    for caller in range(1, 5000):
        rounds.begun([enter(rounds, caller), Ticket(1, 1, 0.0, round=caller)])
    assert len(rounds._last) <= 1025


def batcher_of(engine: FakeEngine) -> DynamicBatcher:
    return DynamicBatcher(
        engine,
        model="m",
        version="1",
        max_batch_size=ROWS,
        batching=Batching(),
        instances=1,
        latency=LatencyTable({1: 0.01, ROWS: 0.02}),
        metrics=EngineMetrics(),
        turns=CoreTurns(1),
        cores=1,
    )


def test_callers_who_are_not_told_apart_keep_the_order_of_their_deadlines() -> None:
    async def run() -> None:
        batcher = batcher_of(FakeEngine())
        latest = time.monotonic() + 9.0
        tickets = [batcher.admit(1, 0, latest - number / 100) for number in range(100)]
        assert sorted(tickets, key=lambda ticket: ticket.rank) == tickets[::-1]
        for ticket in tickets:
            batcher.withdraw(ticket)
        batcher.close()

    asyncio.run(run())


@pytest.mark.parametrize("flooders", [1, 3])
def test_newcomer_waits_for_a_batch_of_each_who_floods_and_no_more(flooders: int) -> None:
    async def run() -> None:
        engine = FakeEngine()
        batcher = batcher_of(engine)
        order: list[int] = []

        async def ask(caller: int) -> None:
            ticket = batcher.admit(1, 0, math.inf, caller=caller)
            await answered(batcher, ticket, [{"x": np.zeros((1, 2), np.float32)}])
            order.append(caller)

        engine.hold.clear()
        calls = [ask(caller) for _ in range(100) for caller in range(10, 10 + flooders)]
        tasks = [asyncio.create_task(call) for call in calls]
        while not engine.running:
            await asyncio.sleep(0.001)  # the first batch runs on a thread
        tasks.append(asyncio.create_task(ask(OTHER)))
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*tasks)
        # The batch that ran, and a batch of each.
        assert order.index(OTHER) < ROWS * (1 + flooders)
        assert await batcher.drain(10)
        batcher.close()

    asyncio.run(run())
