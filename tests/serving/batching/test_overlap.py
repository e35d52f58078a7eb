"""An engine that overlaps batches gets the next one shortly before the one that runs ends."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from serving.base.metrics import EngineMetrics
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreShare, CoreTurns, Turn
from serving.batching.execution import Executed
from serving.batching.latency import LatencyTable
from serving.batching.overlap import Overlap
from serving.batching.ticket import Answer
from serving.repository.model_config import Batching
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.support.stepped_loop import ManualExecutor, SteppedLoop

SECONDS = 0.02


class Served:
    """A batcher of batches of up to 4 rows that take SECONDS, on a loop that the test advances."""

    def __init__(self, *, overlap_rows: int, seconds: float = SECONDS) -> None:
        self.loop = SteppedLoop()
        self.threads = ManualExecutor()
        self.turns = CoreTurns(2)
        self.engine = FakeEngine()
        self.batcher = DynamicBatcher(
            self.engine,
            model="m",
            version="1",
            max_batch_size=4,
            batching=Batching(),
            instances=1,
            latency=LatencyTable({1: seconds, 4: seconds}),
            metrics=EngineMetrics(),
            turns=self.turns,
            cores=2,
            overlap_rows=overlap_rows,
            clock=self.loop.time,
            threads=self.threads,
        )

    def call(self, value: float) -> asyncio.Task[Answer]:
        ticket = self.batcher.admit(1, 0, np.inf)
        inputs = {"x": np.full((1, 2), value, np.float32)}
        task = self.loop.create_task(answered(self.batcher, ticket, [inputs]))
        self.advance(0)
        return task

    def advance(self, seconds: float) -> None:
        self.loop.now += seconds
        self.loop.rounds(10)

    @property
    def given(self) -> int:
        """Batches that the engine has."""
        return len(self.threads.work)

    def finish(self) -> None:
        self.threads.finish()
        self.loop.rounds(10)

    def close(self) -> None:
        self.batcher.close()
        self.loop.close()


@pytest.fixture
def early() -> Iterator[Served]:
    served = Served(overlap_rows=1)
    yield served
    served.close()


def test_the_next_batch_comes_shortly_before_the_end_and_no_third_one(early: Served) -> None:
    first = early.call(1)
    waiting = [early.call(2), early.call(3)]
    early.advance(SECONDS - 0.003)
    assert early.given == 1
    early.advance(0.002)
    assert early.given == 2
    assert early.turns.free == 0
    # The first takes longer than expected; the second is near its own end by then.
    last = early.call(4)
    early.advance(SECONDS)
    assert early.given == 2
    early.finish()
    assert first.result().outputs["y"].tolist() == [[2, 2]]
    assert early.given == 1
    early.finish()
    assert [task.result().outputs["y"][0, 0] for task in waiting] == [4, 6]
    early.finish()
    assert last.result().outputs["y"][0, 0] == 8
    assert early.turns.free == 2


def test_a_batch_that_would_be_smaller_waits_for_company(early: Served) -> None:
    early.call(1)
    for value in (2, 3, 4):
        early.call(value)
    early.advance(SECONDS)
    early.finish()
    assert early.given == 1
    for value in (5, 6):
        early.call(value)
    early.advance(SECONDS)
    assert early.given == 1
    early.finish()
    assert early.given == 1


@pytest.mark.parametrize(
    ("overlap_rows", "seconds", "waiting"),
    [(0, SECONDS, 2), (2, 0.003, 2), (2, SECONDS, 1)],
    ids=["other engine", "short", "few rows"],
)
def test_other_engines_and_small_or_short_batches_get_the_next_one_at_the_end(
    overlap_rows: int, seconds: float, waiting: int
) -> None:
    served = Served(overlap_rows=overlap_rows, seconds=seconds)
    served.call(1)
    for value in range(waiting):
        served.call(value)
    served.advance(2 * seconds)
    assert served.given == 1
    served.finish()
    assert served.given == 1
    served.finish()
    assert served.turns.free == 2
    served.close()


def test_rows_that_would_not_ride_do_not_count() -> None:
    served = Served(overlap_rows=5)
    for value in range(12):
        served.call(value)
    served.advance(2 * SECONDS)
    served.finish()
    served.advance(2 * SECONDS)
    assert served.given == 1
    while served.given:
        served.finish()
    served.close()


def test_another_model_that_waits_gets_the_cores_at_the_end(early: Served) -> None:
    for value in range(9):
        early.call(value)
    early.finish()
    granted: list[Turn] = []
    other = Turn(CoreShare(), 2, SECONDS, granted.append)
    early.turns.ask(other, early.loop.now)
    early.advance(SECONDS)
    assert (early.given, granted) == (1, [])
    early.finish()
    assert granted == [other]
    early.turns.give_back(other, early.loop.now)
    early.advance(0)
    while early.given:
        early.finish()


def test_calls_of_a_batch_that_fails_at_its_end_are_answered(early: Served) -> None:
    tasks = [early.call(value) for value in range(9)]
    early.finish()
    early.advance(SECONDS - 0.001)
    assert early.given == 2
    early.engine.failure = RuntimeError("broken")
    early.finish()
    early.engine.failure = None
    while early.given:
        early.finish()
    assert [task.exception() is not None for task in tasks] == [False] + 4 * [True] + 4 * [False]
    assert early.turns.free == 2


def test_an_early_batch_that_is_done_first_teaches_no_time_of_nothing() -> None:
    overlap = Overlap(1)
    assert overlap.seconds(_executed(began=10.4, ended=10.45)) == pytest.approx(0.05)
    assert overlap.seconds(_executed(began=10.0, ended=10.5)) == pytest.approx(0.5)
    assert overlap.seconds(_executed(began=10.6, ended=10.8)) == pytest.approx(0.2)


def test_the_time_of_a_batch_does_not_hold_its_wait_for_the_one_before() -> None:
    overlap = Overlap(1)
    assert overlap.seconds(_executed(began=10.0, ended=10.5)) == pytest.approx(0.5)
    assert overlap.seconds(_executed(began=10.4, ended=11.0)) == pytest.approx(0.5)
    assert overlap.seconds(_executed(began=12.0, ended=12.25)) == pytest.approx(0.25)


def test_side_by_side_each_batch_has_its_own_time() -> None:
    overlap = Overlap(0)
    assert overlap.seconds(_executed(began=10.0, ended=10.5)) == pytest.approx(0.5)
    assert overlap.seconds(_executed(began=10.1, ended=10.6)) == pytest.approx(0.5)


def _executed(*, began: float, ended: float) -> Executed:
    return Executed({}, 0.0, ended - began, began)
