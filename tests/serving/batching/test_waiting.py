"""Who waits, and what is counted of them."""

import math
from collections.abc import Iterator
from functools import partial

import pytest

from serving.base.errors import DeadlineExpired, ModelNotReady
from serving.base.metrics import EngineMetrics
from serving.batching.ticket import Answer, State, Ticket
from serving.batching.waiting import QueueDelay, Waiting
from serving.repository.model_config import Batching
from tests.support.stepped_loop import SteppedLoop


class Calls:
    """Waiting calls on a loop that the test advances."""

    def __init__(self, loop: SteppedLoop) -> None:
        self.loop = loop
        self.counters = EngineMetrics().counters("m", "1")
        self.expired = 0
        self.outcomes: dict[Ticket, Answer | Exception] = {}
        self.waiting = Waiting(self.counters, loop.time, self.count_expired)

    def count_expired(self) -> None:
        self.expired += 1

    def reserved(
        self,
        rows: int = 1,
        priority: int = 1,
        deadline: float = math.inf,
        delay: float = math.inf,
    ) -> Ticket:
        """deadline, delay: seconds from now."""
        now = self.loop.now
        ticket = Ticket(rows, priority, now, now + deadline, math.inf, now + delay)
        self.waiting.enter(ticket)
        return ticket

    def ready(self, ticket: Ticket) -> Ticket:
        ticket.done = partial(self.outcomes.__setitem__, ticket)
        self.loop.call(lambda: self.waiting.ready(ticket))
        return ticket


@pytest.fixture
def calls() -> Iterator[Calls]:
    loop = SteppedLoop()
    yield Calls(loop)
    loop.close()


def test_rows_that_a_call_gives_back_wait_no_more(calls: Calls) -> None:
    ticket = calls.reserved(rows=5)
    calls.waiting.shrink(ticket, 2)
    assert (calls.waiting.rows, ticket.rows) == (2, 2)
    calls.ready(ticket)
    assert calls.waiting.queue.rows == 2
    calls.waiting.withdraw(ticket)
    assert (calls.waiting.rows, calls.waiting.queue.rows) == (0, 0)


def test_a_call_that_was_withdrawn_has_no_rows_to_give_back(calls: Calls) -> None:
    ticket = calls.reserved(rows=5)
    calls.waiting.withdraw(ticket)
    calls.waiting.shrink(ticket, 2)
    assert calls.waiting.rows == 0


def test_rows_before_a_new_call_are_told_by_its_rank(calls: Calls) -> None:
    now = calls.loop.now
    low = calls.reserved(rows=2, priority=2, deadline=0.5)
    late = calls.reserved(rows=2, deadline=5.0)
    urgent = calls.reserved(rows=2, deadline=1.0)
    before = [calls.waiting.rows_before((1, 0, now + at)) for at in (0.5, 1.0, 3.0, 9.0)]
    assert before == [0, 2, 2, 4]
    assert calls.waiting.rows_before((2, 0, now + 9.0)) == calls.waiting.rows == 6
    calls.waiting.leave(urgent, State.WITHDRAWN)
    assert calls.waiting.rows_before((1, 0, now + 9.0)) == 2
    assert calls.waiting.rows == 4
    assert (low.state, late.state) == (State.RESERVED, State.RESERVED)


def test_call_counts_from_its_reservation_until_its_batch_has_ended(calls: Calls) -> None:
    waiting = calls.waiting
    assert waiting.idle.is_set()
    ticket = calls.reserved(rows=3, priority=2)
    assert (waiting.rows, waiting.queue.rows, waiting.calls_of_level[2]) == (3, 0, 1)
    calls.ready(ticket)
    assert (waiting.rows, waiting.queue.rows, calls.counters.pending.value) == (3, 3, 1)
    assert waiting.take(4) == [ticket]
    assert (waiting.rows, waiting.queue.rows, calls.counters.pending.value) == (0, 0, 0)
    assert waiting.calls_of_level[2] == 0
    assert not waiting.idle.is_set()
    waiting.finished(1)
    assert waiting.idle.is_set()


def test_nobody_is_idle_while_a_batch_runs(calls: Calls) -> None:
    calls.ready(calls.reserved())
    calls.waiting.take(1)
    calls.waiting.leave(calls.reserved(), State.WITHDRAWN)
    assert not calls.waiting.idle.is_set()


def test_call_can_leave_only_while_it_waits(calls: Calls) -> None:
    first, second = calls.ready(calls.reserved()), calls.reserved()
    calls.waiting.take(1)
    assert not calls.waiting.leave(first, State.CANCELLED)
    assert calls.waiting.leave(second, State.WITHDRAWN)
    assert not calls.waiting.leave(second, State.WITHDRAWN)
    calls.waiting.withdraw(first)
    assert (first.state, second.state) == (State.CANCELLED, State.WITHDRAWN)


def test_calls_expire_at_their_own_deadlines(calls: Calls) -> None:
    early, late = (calls.ready(calls.reserved(deadline=seconds)) for seconds in (0.1, 0.2))
    for now, expired in ((0.05, 0), (0.1, 1), (0.15, 1), (0.2, 2)):
        calls.loop.now = 1000.0 + now
        calls.loop.rounds(2)
        assert calls.expired == expired
    for ticket, waited in ((early, "100.5"), (late, "200.5")):
        assert ticket.state is State.EXPIRED
        assert isinstance(error := calls.outcomes[ticket], DeadlineExpired)
        assert waited in str(error)
    assert calls.waiting.idle.is_set()


def test_alarm_that_failed_rings_again_for_the_others(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (calls.ready(calls.reserved(deadline=0.1)) for _ in range(2))
    later = calls.ready(calls.reserved(deadline=0.2))
    with monkeypatch.context() as patch:
        patch.setattr(calls.waiting, "_count_expired", lambda: 1 / 0)
        calls.loop.now += 0.1
        calls.loop.rounds(2)
    assert len(calls.loop.errors) == 1
    calls.loop.now += 0.01
    calls.loop.rounds(2)
    assert {first.state, second.state} == {State.EXPIRED}
    assert later.state is State.QUEUED
    calls.loop.now += 0.09
    calls.loop.rounds(2)
    assert later.state is State.EXPIRED


def test_delayed_call_falls_behind_once_and_keeps_waiting(calls: Calls) -> None:
    delayed = calls.ready(calls.reserved(rows=2, delay=0.1))
    other = calls.ready(calls.reserved(rows=1))
    assert calls.waiting.queue.peek() is delayed
    calls.loop.now += 0.1
    calls.loop.rounds(2)
    assert calls.waiting.queue.rows == calls.waiting.rows == 3
    assert calls.waiting.next_alarm() == math.inf
    assert calls.waiting.take(4) == [other, delayed]


def test_refusal_answers_everybody_who_waits(calls: Calls) -> None:
    queued, decoded = calls.ready(calls.reserved()), calls.reserved()
    calls.waiting.refuse(ModelNotReady("m is being unloaded"))
    assert isinstance(calls.outcomes[queued], ModelNotReady)
    assert (queued.state, decoded.state) == (State.ANSWERED, State.WITHDRAWN)
    assert calls.waiting.idle.is_set()
    assert calls.counters.pending.value == calls.waiting.rows == 0


def test_queue_delay_ends_with_enough_rows_in_time_or_when_stopped(calls: Calls) -> None:
    over: list[float] = []
    batching = Batching(max_queue_delay=0.1, preferred_batch_sizes=(2, 4))
    delay = QueueDelay(calls.waiting.queue, batching, 8, lambda: over.append(calls.loop.now))

    def holds() -> bool:
        return calls.loop.call(lambda: delay.holds_back(calls.loop.now))

    first = calls.ready(calls.reserved())
    assert holds()
    assert holds()
    calls.loop.now += 0.1
    calls.loop.rounds(2)
    assert over == [calls.loop.now]
    assert not holds()
    calls.waiting.leave(first, State.CANCELLED)
    calls.ready(calls.reserved())
    assert holds()
    calls.ready(calls.reserved())
    assert not holds()
    calls.waiting.take(1)
    assert holds()
    delay.stop()
    assert not holds()
    calls.loop.now += 1.0
    calls.loop.rounds(2)
    assert len(over) == 1
