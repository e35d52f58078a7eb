"""Calls that are cancelled or fail harm nobody else, and each outcome is told once."""

import asyncio
import math
import random
from collections.abc import Awaitable, Mapping

import numpy as np
import pytest

from serving.base.errors import DeadlineExpired, EngineError, Shed
from serving.base.tensor import Array
from serving.batching.batcher import DynamicBatcher
from serving.batching.latency import LatencyTable
from serving.batching.ticket import Answer
from serving.repository.model_config import Batching, QueuePolicy
from tests.serving.batching.fake_engine import FakeEngine
from tests.serving.batching.running import call, occupied, run, until


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
        engine.hold.clear()
        mates = [call(batcher, 1), call(batcher, 2)]
        await until(lambda: engine.running == 1)
        mates[0].cancel()
        await asyncio.wait(mates[:1])
        engine.hold.set()
        assert (await mates[1]).outputs["y"].tolist() == [[4, 4]]
        assert engine.batches == [[1, 2]]

    run(body, batching=Batching(max_queue_delay=600, preferred_batch_sizes=(2,)))


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
