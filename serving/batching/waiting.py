"""The calls that are admitted and not yet answered, and every count of them.

A call enters with a reserved place, becomes ready with its inputs, and leaves or is taken into a
batch. Each step moves its ticket to the next state.
"""

import asyncio
import bisect
import itertools
import math
from collections import Counter
from collections.abc import Callable

from serving.base.counting.counters import BatchCounters
from serving.base.errors import DeadlineExpired, ServingError
from serving.batching.queue import BatchQueue
from serving.batching.ticket import (
    ANSWERED,
    CANCELLED,
    EXPIRED,
    QUEUED,
    RESERVED,
    RUNNING,
    WITHDRAWN,
    Rank,
    State,
    Ticket,
)
from serving.repository.model_config import Batching

# Seconds: the precision of a timer. Shorter fires more timers, longer expires calls later.
_TICK = 1e-3
# Seconds after which a failed callback is tried again: shorter answers sooner, longer takes less
# CPU where it always fails.
RETRY_SECONDS = 1e-3


class Waiting:
    """The calls of one model that wait, and the number that run.

    queue: the calls that have their inputs; `queue.rows` counts rows.
    rows: rows of all calls that wait, with or without inputs.
    calls_of_level: calls that wait by priority level.
    running: calls in batches that run, cancelled ones included.
    idle: set while no call waits or runs.

    counters: statistics of the model, whose `pending` counts the calls of the queue.
    clock: monotonic seconds.
    count_expired: called for each call that expires.
    """

    def __init__(
        self,
        counters: BatchCounters,
        clock: Callable[[], float],
        count_expired: Callable[[], None],
    ) -> None:
        self.queue = BatchQueue()
        self.rows = 0
        self.calls_of_level: Counter[int] = Counter()
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._pending = counters.pending
        self._clock = clock
        self._count_expired = count_expired
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        # All waiting calls, sorted, so that a binary search finds the place of a new one.
        self._line: list[tuple[Rank, int, Ticket]] = []
        self._sequence = itertools.count()

    def enter(self, ticket: Ticket) -> None:
        """Gives a new call a place."""
        self._stand(ticket)
        self.calls_of_level[ticket.priority] += 1
        self.idle.clear()

    def shrink(self, ticket: Ticket, rows: int) -> None:
        """Gives rows of a call back that has no inputs yet."""
        if ticket.state is RESERVED:
            self.rows += rows - ticket.rows
            ticket.rows = rows

    def ready(self, ticket: Ticket) -> None:
        """Queues a call that has its inputs and its `done`."""
        if ticket.deadline < self._alarm_at or ticket.delay_at < self._alarm_at:
            self._wake_at(min(ticket.deadline, ticket.delay_at))
        self.queue.push(ticket)
        ticket.state = QUEUED
        self._pending.value += 1

    def leave(self, ticket: Ticket, state: State) -> bool:
        """Takes out a call that waits and moves it to `state`; False where it does not wait."""
        if ticket.state is QUEUED:
            self.queue.remove(ticket)
            self._pending.value -= 1
        elif ticket.state is not RESERVED:
            return False
        ticket.state = state
        self._step_out(ticket)
        self.calls_of_level[ticket.priority] -= 1
        self._settle()
        return True

    def withdraw(self, ticket: Ticket) -> bool:
        """Takes out a call that its caller gives up; a call that runs stays in its batch. Returns
        whether it had been submitted and had no outcome."""
        if ticket.state is RESERVED:
            self.leave(ticket, WITHDRAWN)
            return False
        if ticket.state is RUNNING:
            ticket.state = CANCELLED
            return True
        return self.leave(ticket, CANCELLED)

    def take(self, max_rows: int) -> list[Ticket]:
        """Takes the next batch out of the queue; `finished` has to follow."""
        tickets = self.queue.pop_batch(max_rows)
        self._pending.value -= len(tickets)
        self.running += len(tickets)
        for ticket in tickets:
            ticket.state = RUNNING
            self._step_out(ticket)
            self.calls_of_level[ticket.priority] -= 1
        return tickets

    def finished(self, calls: int) -> None:
        """Counts the end of a batch of `calls`."""
        self.running -= calls
        self._settle()

    def refuse(self, error: ServingError) -> None:
        """Fails all calls that wait, and stops the alarm. A call without inputs fails when it is
        submitted."""
        for _, _, ticket in self._line.copy():
            if ticket.state is RESERVED:
                self.leave(ticket, WITHDRAWN)
            else:
                self.leave(ticket, ANSWERED)
                ticket.done(error)
        self._set_alarm(None, math.inf)

    def rows_before(self, rank: Rank) -> int:
        """Estimated rows of the calls that go before a new one of this rank: their number times the
        average rows of a waiting call."""
        calls = bisect.bisect_right(self._line, (rank, next(self._sequence)))
        return round(calls * self.rows / len(self._line)) if calls else 0

    def next_alarm(self) -> float:
        """When the first queued call expires or falls behind; inf for never."""
        return min((min(t.deadline, t.delay_at) for t in self.queue), default=math.inf)

    def _wake_at(self, when: float) -> None:
        """Sets the alarm to `when` if it would ring later. One timer serves all waiting calls: most
        are answered long before, so a timer each would cost more than looking at all of them."""
        if when < self._alarm_at:
            left = max(0.0, when - self._clock())
            self._set_alarm(asyncio.get_running_loop().call_later(left, self._ring), when)

    def _set_alarm(self, alarm: asyncio.TimerHandle | None, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._alarm_at = alarm, when

    def _ring(self) -> None:
        """Expires queued calls at their deadline, and puts calls behind at their `delay_at`."""
        self._alarm, self._alarm_at = None, math.inf
        try:
            now = self._clock() + _TICK / 2
            for ticket in list(self.queue):
                if ticket.deadline <= now:
                    self._expire(ticket, now)
                elif ticket.delay_at <= now:
                    self._put_behind(ticket)
            self._wake_at(max(self.next_alarm(), now + _TICK))
        except BaseException:
            # The other calls still have deadlines.
            alarm = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._ring)
            self._set_alarm(alarm, -math.inf)
            raise

    def _expire(self, ticket: Ticket, now: float) -> None:
        """Answers a call that still waits at its deadline. A call that runs may finish, since its
        answer costs nothing more."""
        self.leave(ticket, EXPIRED)
        waited = (now - ticket.arrived) * 1e3
        ticket.done(DeadlineExpired(f"deadline passed after {waited:.1f} ms in the queue"))
        self._count_expired()

    def _put_behind(self, ticket: Ticket) -> None:
        self._step_out(ticket)
        ticket.put_behind()
        self._stand(ticket)
        self.queue.move(ticket)

    def _stand(self, ticket: Ticket) -> None:
        ticket.standing = next(self._sequence)
        line, place = self._line, (ticket.rank, ticket.standing, ticket)
        if not line or line[-1] < place:  # most calls go to the end, and leave from the begin
            line.append(place)
        else:
            bisect.insort(line, place)
        self.rows += ticket.rows

    def _step_out(self, ticket: Ticket) -> None:
        line = self._line
        first = line[0][2] is ticket
        del line[0 if first else bisect.bisect_left(line, (ticket.rank, ticket.standing))]
        self.rows -= ticket.rows

    def _settle(self) -> None:
        if not self._line and not self.running:
            self.idle.set()


class QueueDelay:
    """Holds batches back until they are large enough, as long as the config allows.

    queue: the calls that are ready.
    batching: gives the delay and the size to wait for, the smallest preferred one.
    max_rows: the size to wait for where none is preferred.
    over: called when the delay of the first call has passed.
    """

    def __init__(
        self, queue: BatchQueue, batching: Batching, max_rows: int, over: Callable[[], None]
    ) -> None:
        self._queue = queue
        self._seconds = batching.max_queue_delay
        self._enough = min(batching.preferred_batch_sizes, default=max_rows)
        self._over = over
        self._timer: asyncio.TimerHandle | None = None

    def holds_back(self, now: float) -> bool:
        """Whether the next batch has to wait; `over` is then called in time."""
        if self._seconds <= 0 or self._queue.rows >= self._enough:
            return False
        head = self._queue.peek()
        left = head.arrived + self._seconds - now if head is not None else 0.0
        if left > 0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left, self._ring)
        return left > 0

    def held_back(self, rows: int) -> bool:
        """Whether a batch of so many rows has waited until the delay was over."""
        return self._seconds > 0 and rows < self._enough

    def stop(self) -> None:
        """Holds nothing back any more."""
        self._seconds = 0.0
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        self._over()
