"""A version that two engine processes serve: both sides of both, in one process."""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from serving.base.errors import DeadlineExpired, EngineError, EngineRestarts, ModelNotReady, Shed
from serving.remote.front.spread import Spread
from serving.remote.slots import Slots
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.serving.remote.pair import Pair

SLOW = {1: 0.1, 8: 0.2}


@dataclass
class Two:
    """Two engine sides over one memory."""

    latency: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        slots = Slots(1 << 26)
        self.sides = [Pair(latency=self.latency, slots=slots) for _ in range(2)]
        for side in self.sides:
            side.start()
        self.ports = Spread()
        self.spread()

    def spread(self) -> None:
        """As when the catalogue changes."""
        self.ports.over([side.port for side in self.sides if side.port is not None])

    def hold(self) -> None:
        for side in self.sides:
            side.engine.hold.clear()

    def go_on(self) -> None:
        for side in self.sides:
            side.engine.hold.set()

    def kill(self, number: int) -> None:
        self.sides[number].die()
        self.spread()

    def start(self, number: int) -> None:
        self.sides[number].engine = FakeEngine()
        self.sides[number].start()
        self.spread()

    async def ask(self, value: float, rows: int = 1, deadline: float = math.inf) -> list[float]:
        port = self.ports.chosen()
        ticket = port.admit(rows, 0, deadline)
        x = np.full((rows, 2), value, np.float32)
        answer = await answered(port, ticket, [{"x": x}])
        return answer.outputs["y"][:, 0].tolist()

    def rows(self) -> list[int]:
        """Rows without an answer, by engine process."""
        return [port.open_rows for port in self.ports.ports]

    def ran(self, number: int) -> int:
        """Rows that an engine ran."""
        return sum(map(len, self.sides[number].engine.batches))


@asynccontextmanager
async def two(latency: dict[int, float] | None = None) -> AsyncIterator[Two]:
    made = Two(latency or {})
    yield made
    for side in made.sides:
        await side.end()
    await made.sides[0].until(lambda: made.sides[0].states()[0] == 0)
    for side in made.sides:
        assert side.states() == (0, 0)
        assert side.metrics.stale_answers.children() == []
        side.channel.close()
        side.back.close()


def test_calls_go_where_the_fewest_rows_have_no_answer() -> None:
    async def run() -> None:
        async with two() as both:
            both.hold()
            large = asyncio.ensure_future(both.ask(1, rows=4))
            await asyncio.sleep(0)
            small = [asyncio.ensure_future(both.ask(value)) for value in range(6)]
            await asyncio.sleep(0)
            assert both.rows() == [5, 5]
            both.go_on()
            assert await large == [2] * 4
            assert await asyncio.gather(*small) == [[2.0 * value] for value in range(6)]
            # One at a time all go to one engine.
            before = both.ran(1)
            for value in range(5):
                await both.ask(value)
            assert both.ran(1) == before

    asyncio.run(run())


def test_calls_of_a_dead_process_are_answered_by_the_other_at_once() -> None:
    async def run() -> None:
        async with two() as both:
            both.hold()
            calls = [asyncio.ensure_future(both.ask(value)) for value in range(12)]
            first = both.sides[0]
            await first.until(lambda: all(side.engine.batches for side in both.sides))
            running = sum(map(len, first.engine.batches))
            ran = both.ran(1)
            both.kill(0)
            assert both.rows() == [0, 12]
            both.go_on()
            assert await asyncio.gather(*calls) == [[2.0 * value] for value in range(12)]
            assert both.ran(1) == 12
            # Each of those that ran when it died was by itself.
            later = both.sides[1].engine.batches
            assert sum(len(batch) == 1 for batch in later) >= running
            assert ran + 6 - running <= 12
            assert await both.ask(70) == [140]
            both.start(0)
            assert await both.ask(71) == [142]
            assert both.ran(0) == 1

    asyncio.run(run())


def test_calls_wait_for_whichever_process_is_there_first_where_both_are_dead() -> None:
    async def run() -> None:
        async with two() as both:
            both.hold()
            calls = [asyncio.ensure_future(both.ask(value)) for value in range(8)]
            await both.sides[0].until(lambda: all(side.engine.batches for side in both.sides))
            both.kill(0)
            both.kill(1)
            calls.append(asyncio.ensure_future(both.ask(8)))
            await asyncio.sleep(0)
            both.start(1)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            # Of those that ran in the first, one may have run alone in the second as it died.
            lost = [outcome for outcome in outcomes if not isinstance(outcome, list)]
            assert len(lost) <= 1
            assert all(isinstance(outcome, EngineError) for outcome in lost)
            right = [[2.0 * value] for value in range(9)]
            pairs = zip(outcomes, right, strict=True)
            assert all(found == one for found, one in pairs if isinstance(found, list))
            assert both.ran(1) == 9 - len(lost)
            both.start(0)

    asyncio.run(run())


def test_a_call_that_runs_at_the_death_of_both_ends_with_the_hash_of_its_inputs() -> None:
    async def run() -> None:
        async with two() as both:
            both.hold()
            deadly = asyncio.ensure_future(both.ask(66))
            first, second = both.sides
            await first.until(lambda: first.engine.batches)
            both.kill(0)
            await first.until(lambda: second.engine.batches)
            both.kill(1)
            with pytest.raises(EngineError, match=r"SHA-256 [0-9a-f]{16}"):
                await deadly
            both.start(0)
            both.start(1)
            assert await both.ask(3) == [6]

    asyncio.run(run())


def test_calls_of_a_process_without_hope_wait_for_the_one_that_is_started() -> None:
    async def run() -> None:
        async with two() as both:
            both.kill(0)
            both.kill(1)
            call = asyncio.ensure_future(both.ask(4))
            await asyncio.sleep(0)
            [waits] = [side for side in both.sides if side.calls._waiting.all()]
            waits.calls.gave_up("it ended too often")
            other = both.sides.index(waits) ^ 1
            later = asyncio.ensure_future(both.ask(5))
            await asyncio.sleep(0)
            both.start(other)
            assert await asyncio.gather(call, later) == [[8], [10]]
            both.kill(other)
            both.sides[other].calls.gave_up("so did it")
            with pytest.raises(ModelNotReady, match=r"too often|so did"):
                await both.ask(6)
            both.start(0)
            both.start(1)

    asyncio.run(run())


def test_a_place_in_a_process_that_dies_is_no_place_in_the_other() -> None:
    async def run() -> None:
        async with two(SLOW) as both:
            port = both.ports.chosen()
            ticket = port.admit(1, 0, time.monotonic() + 0.3)
            await port.confirm(ticket)
            assert both.sides[0].batcher._waiting.rows == 1
            both.kill(0)
            answer = await answered(port, ticket, [{"x": np.ones((1, 2), np.float32)}])
            assert answer.outputs["y"].tolist() == [[2, 2]]
            assert (both.ran(0), both.ran(1)) == (0, 1)
            both.start(0)

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(6))
def test_every_call_gets_its_own_answer_whatever_dies_in_whatever_order(seed: int) -> None:
    async def run() -> None:
        dice = random.Random(seed)
        async with two() as both:
            dead: set[int] = set()
            calls: dict[asyncio.Task[list[float]], float] = {}
            for number in range(150):
                step = dice.random()
                if step < 0.6:
                    soon = time.monotonic() + 0.02 if step < 0.1 else math.inf
                    task = asyncio.ensure_future(both.ask(number, dice.randint(1, 4), soon))
                    calls[task] = number
                elif step < 0.7 and calls:
                    dice.choice(list(calls)).cancel()
                elif step < 0.78:
                    dice.choice(both.sides).engine.hold.clear()
                elif step < 0.86:
                    both.go_on()
                elif (which := dice.randint(0, 1)) in dead:
                    dead.remove(which)
                    both.start(which)
                elif step < 0.95:
                    dead.add(which)
                    both.kill(which)
                if step > 0.5:
                    await asyncio.sleep(0)
                used, _ = both.sides[0].states()
                held = [len(side.calls._lent) + len(side.calls._waiting) for side in both.sides]
                assert used == sum(held)
            for which in dead:
                both.start(which)
            both.go_on()
            for task, number in calls.items():
                [outcome] = await asyncio.gather(task, return_exceptions=True)
                if isinstance(outcome, list):
                    assert set(outcome) == {2 * number}
                else:
                    kinds = DeadlineExpired | EngineRestarts | EngineError | Shed
                    assert isinstance(outcome, kinds | asyncio.CancelledError), repr(outcome)
            assert both.rows() == [0, 0]

    asyncio.run(run())
