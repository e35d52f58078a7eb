"""The order of the queue, and which calls share a batch."""

import math
import random

import pytest

from serving.batching.queue import BatchQueue
from serving.batching.ticket import PATIENCE, Ticket


def entry(
    rows: int = 1,
    priority: int = 1,
    arrived: float = 0.0,
    deadline: float = math.inf,
    key: str | None = None,
) -> Ticket:
    return Ticket(rows=rows, priority=priority, arrived=arrived, deadline=deadline, key=key)


def queue_of(*entries: Ticket) -> BatchQueue:
    queue: BatchQueue = BatchQueue()
    for one in entries:
        queue.push(one)
    return queue


def drained(queue: BatchQueue, max_rows: int = 1) -> list[list[Ticket]]:
    batches = []
    while batch := queue.pop_batch(max_rows):
        batches.append(batch)
    return batches


def test_empty_queue_gives_nothing() -> None:
    queue = queue_of()
    assert queue.peek() is None
    assert queue.pop_batch(8) == []
    assert queue.rows == 0


def test_urgent_priority_goes_before_an_earlier_deadline() -> None:
    patient, urgent = entry(priority=2, deadline=1.0), entry(priority=1, deadline=9.0)
    assert drained(queue_of(patient, urgent)) == [[urgent], [patient]]


def test_earlier_deadline_goes_first_within_a_priority() -> None:
    late, early, middle = entry(deadline=3.0), entry(deadline=1.0), entry(deadline=2.0)
    assert drained(queue_of(late, early, middle)) == [[early], [middle], [late]]


def test_equal_calls_keep_their_order_of_arrival() -> None:
    calls = [entry(deadline=5.0) for _ in range(20)]
    assert drained(queue_of(*calls), 3) == [calls[i : i + 3] for i in range(0, 20, 3)]


def test_call_without_a_deadline_is_not_overtaken_for_ever() -> None:
    queue = queue_of(old := entry(arrived=0.0))
    soon = entry(arrived=1.0, deadline=2.0)
    much_later = entry(arrived=PATIENCE, deadline=PATIENCE + 1.0)
    queue.push(much_later)
    queue.push(soon)
    assert drained(queue) == [[soon], [old], [much_later]]


def test_deadline_far_away_does_not_put_a_call_behind_those_without_one() -> None:
    first, second = entry(arrived=0.0, deadline=1e9), entry(arrived=1.0)
    assert drained(queue_of(second, first)) == [[first], [second]]


def test_batch_takes_whole_calls_up_to_its_size() -> None:
    calls = [entry(rows=rows, arrived=index) for index, rows in enumerate((3, 2, 3, 1))]
    queue = queue_of(*calls)
    assert queue.rows == 9
    assert queue.pop_batch(8) == calls[:3]
    assert queue.rows == 1
    assert queue.pop_batch(8) == calls[3:]


def test_large_call_is_not_overtaken_by_smaller_ones_that_would_fit() -> None:
    first, large, small = entry(rows=5), entry(rows=4, arrived=1.0), entry(rows=1, arrived=2.0)
    queue = queue_of(first, large, small)
    assert queue.pop_batch(8) == [first]
    assert queue.pop_batch(8) == [large, small]


def test_call_larger_than_a_batch_runs_alone() -> None:
    large, small = entry(rows=20), entry(arrived=1.0)
    assert drained(queue_of(large, small), 8) == [[large], [small]]


def test_only_calls_of_the_same_key_share_a_batch() -> None:
    calls = [entry(arrived=index, key=key) for index, key in enumerate("aabab")]
    assert drained(queue_of(*calls), 8) == [
        [calls[0], calls[1], calls[3]],
        [calls[2], calls[4]],
    ]


def test_passed_over_calls_keep_their_place() -> None:
    calls = [entry(deadline=index, key=key) for index, key in enumerate("abba")]
    queue = queue_of(*calls)
    assert queue.pop_batch(2) == [calls[0], calls[3]]
    queue.push(newcomer := entry(deadline=1.5, key="b"))
    assert queue.pop_batch(8) == [calls[1], newcomer, calls[2]]


def test_removed_call_leaves_its_batch_mates_in_place() -> None:
    calls = [entry(rows=2, arrived=index) for index in range(4)]
    queue = queue_of(*calls)
    assert queue.remove(calls[0])
    assert queue.remove(calls[2])
    assert queue.rows == 4
    assert queue.peek() is calls[1]
    assert queue.pop_batch(8) == [calls[1], calls[3]]
    assert queue.rows == 0


def test_call_can_leave_only_once() -> None:
    queue = queue_of(first := entry(), second := entry())
    assert queue.pop_batch(1) == [first]
    assert not queue.remove(first)
    assert queue.remove(second)
    assert not queue.remove(second)
    assert not queue.remove(entry())
    assert queue.rows == 0
    assert queue.peek() is None


def test_call_that_comes_back_is_run_once() -> None:
    queue = queue_of(call := entry())
    queue.remove(call)
    queue.push(call)
    assert queue.rows == 1
    assert drained(queue, 8) == [[call]]


def test_peek_takes_nothing_out() -> None:
    queue = queue_of(call := entry())
    assert queue.peek() is queue.peek() is call
    assert queue.pop_batch(1) == [call]


@pytest.mark.parametrize("seed", range(5))
def test_random_traffic_is_run_once_each_in_order(seed: int) -> None:
    chance = random.Random(seed)
    queue, waiting, now = queue_of(), [], 0.0
    for _ in range(500):
        now += chance.random()
        match chance.randrange(4):
            case 0 | 1:
                call = entry(
                    rows=chance.randrange(1, 5),
                    priority=chance.randrange(1, 4),
                    arrived=now,
                    deadline=chance.choice([now + 20 * chance.random(), math.inf]),
                    key=chance.choice("ab"),
                )
                queue.push(call)
                waiting.append(call)
            case 2 if waiting:
                assert queue.remove(waiting.pop(chance.randrange(len(waiting))))
            case _:
                batch = queue.pop_batch(8)
                assert sum(call.rows for call in batch) <= 8
                assert len({call.key for call in batch}) <= 1
                expected = sorted(waiting, key=lambda call: call.rank)
                assert batch[:1] == expected[:1]
                same_key = [call for call in expected if batch and call.key == batch[0].key]
                assert batch == same_key[: len(batch)]
                waiting = [call for call in waiting if call not in batch]
        assert queue.rows == sum(call.rows for call in waiting)
