"""Which calls are let in, and what those that are not are told."""

import itertools
import math

import pytest

from serving.base.errors import QueueFull, Shed
from serving.batching.admission import QueueAhead, check, longest_wait, predicted_wait
from serving.batching.latency import LatencyTable

# A batch of 8 takes 80 ms, one of 4 takes 50 ms, a single row 20 ms.
TABLE = LatencyTable({1: 0.020, 4: 0.050, 8: 0.080})


def queue_ahead(
    waiting_rows: int = 0,
    busy_seconds: float = 0.0,
    instances: int = 1,
    *,
    after: int = 0,
    calls: int = 0,
    turn_seconds: float = 0.0,
) -> QueueAhead:
    return QueueAhead(waiting_rows, after, calls, busy_seconds, turn_seconds, instances)


IDLE = queue_ahead()


def enter(
    before: QueueAhead,
    rows: int = 1,
    *,
    room: int = 100,
    now: float = 0.0,
    deadline: float = math.inf,
) -> None:
    check(before, rows, TABLE, 8, room, now, deadline)


@pytest.mark.parametrize(
    ("before", "rows", "seconds"),
    [
        (queue_ahead(), 1, 0.020),
        (queue_ahead(), 4, 0.050),
        # What runs has to end first.
        (queue_ahead(busy_seconds=0.030), 1, 0.050),
        # Three rows wait: the new call rides in their batch, which is then one of four.
        (queue_ahead(waiting_rows=3), 1, 0.050),
        (queue_ahead(waiting_rows=7), 1, 0.080),
        # A full batch waits: the new call rides in the next, taken to be full as well.
        (queue_ahead(waiting_rows=8), 1, 0.160),
        (queue_ahead(waiting_rows=9), 1, 0.160),
        (queue_ahead(waiting_rows=16), 1, 0.240),
        # Two instances take turns at what waits.
        (queue_ahead(waiting_rows=16, instances=2), 1, 0.160),
        (queue_ahead(waiting_rows=16, busy_seconds=0.010), 1, 0.250),
        # Between its batches another model has the cores.
        (queue_ahead(waiting_rows=16, busy_seconds=0.010, turn_seconds=0.040), 1, 0.330),
        (queue_ahead(waiting_rows=3, turn_seconds=0.040), 1, 0.050),
        # Five wait and four come: nine rows do not fit one batch.
        (queue_ahead(waiting_rows=5), 4, 0.160),
        (queue_ahead(waiting_rows=4), 4, 0.080),
        (queue_ahead(waiting_rows=13), 4, 0.240),
        (queue_ahead(waiting_rows=12), 4, 0.160),
        # What waits behind it rides along, but does not go before it.
        (queue_ahead(after=3), 1, 0.050),
        (queue_ahead(after=100), 1, 0.080),
        (queue_ahead(waiting_rows=8, after=100), 1, 0.160),
    ],
)
def test_wait_is_what_runs_and_what_waits_and_the_call_itself(
    before: QueueAhead, rows: int, seconds: float
) -> None:
    assert predicted_wait(before, rows, TABLE, 8) == pytest.approx(seconds)


def test_wait_never_falls_as_the_queue_grows() -> None:
    for rows in (1, 3, 8):
        waits = [predicted_wait(queue_ahead(waiting), rows, TABLE, 8) for waiting in range(50)]
        assert waits == sorted(waits)


def test_wait_follows_the_correction_of_the_table() -> None:
    slow = LatencyTable({1: 0.020, 8: 0.080})
    slow.factor = 3.0
    assert predicted_wait(queue_ahead(waiting_rows=8), 1, slow, 8) == pytest.approx(0.480)


def test_call_that_can_be_met_enters() -> None:
    assert enter(IDLE, now=100.0, deadline=100.021) is None
    assert enter(queue_ahead(waiting_rows=8), now=100.0, deadline=100.161) is None


def test_call_without_a_deadline_enters_however_long_it_takes() -> None:
    assert enter(queue_ahead(waiting_rows=90, busy_seconds=1e6)) is None


def test_call_that_cannot_be_met_is_shed_with_the_time_that_is_missing() -> None:
    with pytest.raises(Shed, match=r"needs about 160\.0 ms, 60\.0 ms are left") as refusal:
        enter(queue_ahead(waiting_rows=8), now=100.0, deadline=100.060)
    assert refusal.value.retry_after == pytest.approx(0.100)


def test_call_shorter_than_the_bare_run_is_told_to_come_a_batch_later() -> None:
    with pytest.raises(Shed) as refusal:
        enter(IDLE, rows=4, now=100.0, deadline=100.045)
    assert refusal.value.retry_after == pytest.approx(0.050)


def test_call_whose_deadline_has_passed_is_shed() -> None:
    with pytest.raises(Shed, match=r"-500\.0 ms are left") as refusal:
        enter(IDLE, now=100.0, deadline=99.5)
    assert refusal.value.retry_after == pytest.approx(0.520)


def test_queue_takes_calls_up_to_its_size() -> None:
    assert enter(queue_ahead(waiting_rows=90, calls=9), rows=8, room=10) is None
    with pytest.raises(QueueFull, match="queue is full: 10 of 10 places are taken"):
        enter(queue_ahead(calls=10), room=10)


def test_full_queue_tells_when_there_will_be_room() -> None:
    # After the 30 ms that the present batch needs, and one more.
    with pytest.raises(QueueFull) as refusal:
        enter(queue_ahead(busy_seconds=0.030, calls=100), room=100)
    assert refusal.value.retry_after == pytest.approx(0.030 + 0.080)
    with pytest.raises(QueueFull) as refusal:
        enter(queue_ahead(busy_seconds=0.030, instances=2, calls=100), room=100)
    assert refusal.value.retry_after == pytest.approx(0.030 + 0.040)


def test_full_queue_comes_before_a_deadline_that_cannot_be_met() -> None:
    with pytest.raises(QueueFull):
        enter(queue_ahead(calls=100), room=100, now=100.0, deadline=100.001)


def test_no_call_is_predicted_to_wait_past_the_longest_wait() -> None:
    cases = itertools.product(range(20), range(20), range(1, 9), (1, 2), (0.0, 0.03), (0.0, 0.01))
    for before, after, rows, instances, busy, turn in cases:
        call = queue_ahead(before, busy, instances, after=after, turn_seconds=turn)
        longest = longest_wait(busy, turn, before + after, TABLE, 8)
        assert predicted_wait(call, rows, TABLE, 8) <= longest + 1e-9
