"""Decides on arrival, before anything is spent on a call, whether its answer can be in time.

Nothing here reads a clock: the time is passed in.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from serving.base.errors import QueueFull, Shed
from serving.batching.core_turns import CoreShare
from serving.batching.latency import LatencyTable
from serving.batching.rounds import Rounds
from serving.batching.ticket import Ticket
from serving.batching.waiting import Waiting
from serving.repository.model_config import Batching


class QueueAhead(NamedTuple):
    """The queue that a new call finds.

    rows_before: rows that wait and go before it.
    rows_after: rows that wait and go after it.
    calls_of_level: calls that wait at its own priority level.
    busy_seconds: seconds until the first instance is free.
    turn_seconds: seconds that each later batch waits for cores that other models hold.
    instances: batches that run at a time.
    """

    rows_before: int
    rows_after: int
    calls_of_level: int
    busy_seconds: float
    turn_seconds: float
    instances: int


def predicted_wait(ahead: QueueAhead, rows: int, table: LatencyTable, max_batch_size: int) -> float:
    """Seconds from now until a call of `rows` that finds `ahead` is answered."""
    batches_before = math.ceil(ahead.rows_before / max_batch_size)
    partial = ahead.rows_before % max_batch_size
    shares = partial > 0 and partial + rows <= max_batch_size
    full = table.predict(max_batch_size)
    # Rows that wait behind the call join its batch.
    waiting = ahead.rows_before + rows + ahead.rows_after
    own = table.predict(min(max_batch_size, waiting))
    # The rows of the last batch before it share the call's batch where they all fit.
    rounds = batches_before - (1 if shares else 0)
    return ahead.busy_seconds + rounds * (full + ahead.turn_seconds) / ahead.instances + own


def longest_wait(
    busy_seconds: float,
    turn_seconds: float,
    rows_waiting: int,
    table: LatencyTable,
    max_batch_size: int,
) -> float:
    """An upper bound of `predicted_wait` for any place in the queue, in seconds: the wait of a call
    behind all waiting rows that shares a batch with none of them."""
    full = table.predict(max_batch_size)
    return busy_seconds + (rows_waiting // max_batch_size + 2) * (full + turn_seconds)


def check(
    ahead: QueueAhead,
    rows: int,
    table: LatencyTable,
    max_batch_size: int,
    max_queue_size: int,
    now: float,
    deadline: float,
) -> None:
    """Returns where a call may enter.

    deadline: monotonic seconds; inf for none.
    Raises QueueFull where its priority level has no room for another call, Shed where the deadline
    would pass before the answer. Both carry the seconds after which a new try makes sense.
    """
    if ahead.calls_of_level >= max_queue_size:
        retry = ahead.busy_seconds + table.predict(max_batch_size) / ahead.instances
        raise QueueFull(
            f"queue is full: {ahead.calls_of_level} of {max_queue_size} places are taken", retry
        )
    if math.isinf(deadline):
        return
    wait = predicted_wait(ahead, rows, table, max_batch_size)
    left = deadline - now
    if wait > left:
        # A deadline shorter than one batch is never met; then a batch's time is as good as any.
        retry = max(wait - left, table.predict(rows))
        raise Shed(
            f"cannot be met: needs about {wait * 1e3:.1f} ms, {left * 1e3:.1f} ms are left", retry
        )


class Admission:
    """Lets the calls of one model in.

    waiting: the queue that they enter.
    batching: priorities and their queue policies.
    latency: predicts batches of at most `max_rows`, `instances` of which run at a time.
    slo: seconds within which every admitted call ought to be answered.
    share: its `wait` is the seconds that a batch waits for cores.
    busy_seconds: returns the seconds from a given moment until the next batch may start.
    rounds: the turns of callers.
    """

    def __init__(
        self,
        waiting: Waiting,
        batching: Batching,
        latency: LatencyTable,
        max_rows: int,
        instances: int,
        slo: float,
        share: CoreShare,
        busy_seconds: Callable[[float], float],
        rounds: Rounds,
    ) -> None:
        self._waiting = waiting
        self._batching = batching
        self._latency = latency
        self._max_rows = max_rows
        self._instances = instances
        self._slo = slo
        self._share = share
        self._busy_seconds = busy_seconds
        self._rounds = rounds

    def admit(
        self, rows: int, priority: int, deadline: float, timeout: float, now: float, caller: int
    ) -> Ticket:
        """A ticket for a call that may enter, and a place. Raises QueueFull, Shed.

        DynamicBatcher.admit explains the arguments.
        """
        # Comparisons, here and below: `min` takes ten times as long.
        batching = self._batching
        level = min(priority, batching.priority_levels) if priority else batching.default_priority
        policy = batching.policy(level)
        target = now + self._slo
        expires = now + policy.timeout(timeout)
        delay_at = math.inf
        if not policy.timeout_delays and expires < deadline:
            deadline = expires
        required = deadline if deadline < target else target
        if policy.timeout_delays:
            delay_at = expires
            target = min(target, expires)
        turn = self._turn(caller, rows) if caller else 0
        ticket = Ticket(rows, level, now, deadline, target, delay_at, round=turn)
        # A call without a deadline, in a queue with room, needs no prediction.
        room = policy.max_queue_size
        if required < math.inf or self._waiting.calls_of_level[level] >= room:
            self._check(ticket, room, now, required)
        self._waiting.enter(ticket)
        if caller:
            self._rounds.entered(caller, ticket)
        return ticket

    def _turn(self, caller: int, rows: int) -> int:
        if not self._waiting.rows:
            self._rounds.restart()
        return self._rounds.next(caller, rows)

    def _check(self, ticket: Ticket, room: int, now: float, required: float) -> None:
        waiting, turn_seconds = self._waiting, self._share.wait
        busy = self._busy_seconds(now)
        calls = waiting.calls_of_level[ticket.priority]
        if calls < room:
            # The longest wait is in time in most cases; then no rows have to be counted.
            wait = longest_wait(busy, turn_seconds, waiting.rows, self._latency, self._max_rows)
            if wait <= required - now:
                return
        before = waiting.rows_before(ticket.rank)
        after = waiting.rows - before
        ahead = QueueAhead(before, after, calls, busy, turn_seconds, self._instances)
        check(ahead, ticket.rows, self._latency, self._max_rows, room, now, required)
