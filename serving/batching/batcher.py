"""Groups calls into batches and runs them: as soon as an instance is free and something waits.

All bookkeeping happens on the event loop; an instance's thread only gathers, runs and times. While
a batch runs, the next one fills.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serving.base.errors import DeadlineExpired, ModelNotReady, QueueFull, Shed
from serving.base.metrics import Metrics, ModelCounters
from serving.base.tensor import Array
from serving.batching.admission import Load, admit, longest_wait
from serving.batching.execution import BatchExecution, Executed, Runner
from serving.batching.latency import LatencyTable
from serving.batching.queue import BatchQueue, Line
from serving.batching.ticket import Answer, Ticket
from serving.batching.turns import CoreTurns, Share, Turn
from serving.repository.model_config import Batching

RECENT_BATCHES = 64
# A batch that takes longer than both is stuck, not slow: seconds, and times its prediction.
_STUCK_SECONDS = 30.0
_STUCK_FACTOR = 50.0
# Of the newest turn in the average wait for one: some ten forget what was before.
_TURN_WEIGHT = 0.1
# What a timer is exact to, in seconds.
_TICK = 1e-3
# Rounds of the event loop, 1.4 us each. A gRPC call takes several to come in: with 32 callers of a
# network of 20 us a call costs 190 us of CPU rather than 350 without, a single caller waits 30 us.
_QUIET_ROUNDS = 25
# Where other models' calls make the rounds long, the cores are not held without work for longer.
_QUIET_SECONDS = 3e-4


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch and why it had the size it had: what `/debug/batches` shows. Times in seconds;
    `left_waiting` and `limit` are in rows. limited_by: "deadline", that of the call at its head,
    where more would have come too late for it; "size", where a smaller batch does as well or the
    config prefers its size; "" where as many went as waited and fit."""

    started: float
    rows: int
    calls: int
    left_waiting: int
    limit: int
    limited_by: str
    longest_wait: float
    predicted: float
    took: float


class DynamicBatcher:
    """The batcher of one loaded version.

    slo: seconds within which every admitted call ought to be answered; calls that could not be are
    shed, and batches kept small enough. max_batch_size 0 says that the model has no batch
    dimension: each call then runs alone. inline_seconds: batches that were shorter when measured
    run on the event loop itself, since handing them to a thread would take longer.
    Everything but the instances' threads must be called from one event loop.
    """

    def __init__(
        self,
        engine: Runner,
        *,
        model: str,
        version: str,
        max_batch_size: int,
        batching: Batching,
        instances: int,
        latency: LatencyTable,
        metrics: Metrics,
        turns: CoreTurns,
        cores: int,
        slo: float = math.inf,
        inline_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = model
        self._max_rows = max(1, max_batch_size)
        self._batching = batching
        self._instances = instances
        self.latency = latency
        self._turns = turns
        self._share = Share()
        # Seconds that batches have waited for the cores, of late.
        self._turn_wait = 0.0
        self._cores = cores
        self._slo = slo
        self._inline_seconds = inline_seconds
        self._metrics = metrics
        self._counters: ModelCounters = metrics.counters(model, version)
        self._batch_size = metrics.batch_size.labels(model, version)
        self._clock = clock
        self._queue: BatchQueue[Ticket] = BatchQueue()
        metrics.queue_depth.labels(model, version).set_function(lambda: self._queue.rows)
        # Calls that were admitted and are still being decoded count as waiting.
        self._line: Line[Ticket] = Line()
        self._waiting_calls: Counter[int] = Counter()
        # Batches that were asked for or run; each holds one of the instances.
        self._active = 0
        self._asked = 0
        self._delay_timer: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._unanswered = 0
        self.recent: deque[BatchRecord] = deque(maxlen=RECENT_BATCHES)
        self._runs: dict[Turn, float] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._stopped = False
        self._threads = ThreadPoolExecutor(instances, thread_name_prefix=f"infer-{model}-{version}")
        self._execution = BatchExecution(engine, max_batch_size, instances, clock)

    # Calls: admit -> submit (or withdraw), in this order.

    def admit(self, rows: int, priority: int, deadline: float, timeout: float = math.inf) -> Ticket:
        """Reserves a place before anything is spent on the call.

        priority: 0 takes the model's default. deadline: when the caller gives up, in monotonic
        seconds. timeout: the seconds that it asks for in place of the model's, where those are more
        and its queue policy allows that. inf for none of either.
        Raises QueueFull, Shed, ModelNotReady.
        """
        if self._closed:
            raise ModelNotReady(f"model {self._name!r} is being unloaded")
        now = self._clock()
        level = min(priority or self._batching.default_priority, self._batching.priority_levels)
        policy = self._batching.policy(level)
        target = now + self._slo
        required = min(deadline, target)
        expires = now + policy.timeout(timeout)
        if policy.timeout_delays:
            target = min(target, expires)
        else:
            deadline = min(deadline, expires)
            required = min(required, expires)
        ticket = Ticket(
            rows=rows,
            priority=level,
            arrived=now,
            deadline=deadline,
            target=target,
            delay_at=expires if policy.timeout_delays else math.inf,
        )
        # With room in the queue and nothing to be in time for, nothing has to be predicted.
        if required < math.inf or self._waiting_calls[level] >= policy.max_queue_size:
            self._check(ticket, policy.max_queue_size, now, required)
        self._line.add(ticket)
        self._waiting_calls[level] += 1
        self._answer_due(1)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Gives a reserved place back: the call failed before it had inputs."""
        if ticket.reserved:
            ticket.reserved = False
            self._no_longer_waits(ticket)
            self._answer_due(-1)

    async def submit(self, ticket: Ticket, *parts: Mapping[str, Array]) -> Answer:
        """Queues an admitted call with its inputs ([rows, ...] each), which may come in parts whose
        rows follow one another, and waits for its answer.

        Raises DeadlineExpired at the deadline itself, EngineError where the batch failed.
        Cancelling it takes the call out of the queue and touches nobody else.
        """
        if ticket.reserved:
            ticket.reserved = False
        else:
            raise ModelNotReady(f"model {self._name!r} is being unloaded")
        ticket.parts = parts
        ticket.key = self._key(parts[0])
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        ticket.answer = answer
        self._wake_at(min(ticket.deadline, ticket.delay_at))
        self._queue.push(ticket)
        self._counters.pending += 1
        self._pump()
        try:
            return await answer
        except asyncio.CancelledError:
            self._metrics.cancelled.labels(self._name).inc()
            if self._leave_queue(ticket):
                self._answer_due(-1)
            raise

    async def drain(self, seconds: float) -> bool:
        """Takes no new calls and waits until the accepted ones are answered.

        Returns False on time-out. Calls that still wait when it ends fail with ModelNotReady, also
        when it is cancelled: the threads are stopped next.
        """
        self._closed = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self._refuse_waiting()
        if self._alarm is not None:
            # It would keep the batcher and its buffers until it rings.
            self._alarm.cancel()
        return True

    def close(self) -> None:
        """Stops the threads; a batch that runs is waited for."""
        self._closed = self._stopped = True
        self._threads.shutdown(wait=True)

    def stuck_for(self) -> float:
        """Seconds that a batch has been running far beyond any reason; 0 where none has."""
        now = self._clock()
        return max(
            (
                now - started
                for turn, started in self._runs.items()
                if now - started > max(_STUCK_SECONDS, _STUCK_FACTOR * turn.seconds)
            ),
            default=0.0,
        )

    # On the event loop.

    def _check(self, ticket: Ticket, room: int, now: float, required: float) -> None:
        busy = self._busy_seconds(now)
        if self._waiting_calls[ticket.priority] < room:
            # Where the longest wait is in time, as it mostly is, nothing has to be counted.
            waiting, rows = self._line.rows, self._max_rows
            if longest_wait(busy, self._turn_wait, waiting, self.latency, rows) <= required - now:
                return
        load = self._load(ticket, busy)
        try:
            admit(load, ticket.rows, self.latency, self._max_rows, room, now, required)
        except (QueueFull, Shed) as refusal:
            reason = "deadline" if isinstance(refusal, Shed) else "queue_full"
            self._metrics.shed.labels(self._name, reason).inc()
            raise

    def _load(self, ticket: Ticket, busy: float) -> Load:
        before = self._line.rows_before(ticket.rank)
        return Load(
            rows_before=before,
            rows_after=self._line.rows - before,
            calls_of_level=self._waiting_calls[ticket.priority],
            busy_seconds=busy,
            turn_seconds=self._turn_wait,
            instances=self._instances,
        )

    def _answer_due(self, change: int) -> None:
        self._unanswered += change
        if self._unanswered:
            self._idle.clear()
        else:
            self._idle.set()

    def _busy_seconds(self, now: float) -> float:
        """Seconds until the next batch may start: a turn on the cores, and an instance."""
        rest = 0.0
        if self._active >= self._instances and self._runs:
            rest = max(0.0, min(turn.ends for turn in self._runs) - now)
        return max(rest, self._turns.wait(self._share, self._cores, now))

    def _key(self, inputs: Mapping[str, Array]) -> Hashable:
        if len(inputs) == 1:
            [array] = inputs.values()
            return array.shape[1:]
        return tuple((name, array.shape[1:]) for name, array in sorted(inputs.items()))

    def _leave_queue(self, ticket: Ticket) -> bool:
        """Whether it was there still."""
        if not self._queue.remove(ticket):
            return False
        self._counters.pending -= 1
        self._no_longer_waits(ticket)
        return True

    def _no_longer_waits(self, ticket: Ticket) -> None:
        self._line.leave(ticket)
        self._waiting_calls[ticket.priority] -= 1

    def _refuse_waiting(self) -> None:
        for ticket in self._line.entries():
            if not self._leave_queue(ticket):
                ticket.reserved = False
                self._no_longer_waits(ticket)
            self._answer_due(-1)
            if ticket.answer is not None and not ticket.answer.done():
                ticket.answer.set_exception(
                    ModelNotReady(f"model {self._name!r} is being unloaded")
                )

    def _wake_at(self, when: float) -> None:
        """One timer for all that wait, set to the first deadline or delay among them: most calls
        are answered long before, and a timer for each would cost more than to look at all."""
        if when < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            left = max(0.0, when - self._clock())
            self._alarm_at = when
            self._alarm = asyncio.get_running_loop().call_later(left, self._look_at_clocks)

    def _look_at_clocks(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        now = self._clock() + _TICK / 2
        first = math.inf
        for ticket in list(self._queue):
            if ticket.deadline <= now:
                self._expire(ticket)
                continue
            if ticket.delay_at <= now:
                self._put_behind(ticket)
            first = min(first, ticket.deadline, ticket.delay_at)
        self._wake_at(max(first, now + _TICK))

    def _put_behind(self, ticket: Ticket) -> None:
        """At the timeout of a queue policy that delays: all others of its priority go first."""
        self._queue.remove(ticket)
        self._line.leave(ticket)
        ticket.put_behind()
        self._line.add(ticket)
        self._queue.push(ticket)

    def _expire(self, ticket: Ticket) -> None:
        """At the deadline: a call that still waits is answered now. One that runs is let finish,
        since its answer costs nothing more."""
        self._leave_queue(ticket)
        self._answer_due(-1)
        self._metrics.shed.labels(self._name, "expired").inc()
        if ticket.answer is not None and not ticket.answer.done():
            waited = self._clock() - ticket.arrived
            ticket.answer.set_exception(
                DeadlineExpired(f"deadline passed after {waited * 1e3:.1f} ms in the queue")
            )

    def _pump(self) -> None:
        """Asks for a turn for each free instance while something waits."""
        while self._active < self._instances:
            head = self._queue.peek()
            # A batch that was asked for takes what waits when its turn comes.
            if head is None or self._queue.rows <= self._asked * self._max_rows:
                return
            now = self._clock()
            if self._must_wait(head, now):
                return
            self._active += 1
            self._asked += 1
            rows = min(self._queue.rows, self._max_rows)
            turn = Turn(self._share, self._cores, self.latency.predict(rows), self._start)
            self._turns.ask(turn, now)

    def _must_wait(self, head: Ticket, now: float) -> bool:
        """Whether the configured queue delay still holds the next batch back."""
        delay = self._batching.max_queue_delay
        if delay <= 0 or self._closed:
            return False
        preferred = self._batching.preferred_batch_sizes
        enough = preferred[0] if preferred else self._max_rows
        left = head.arrived + delay - now
        if left <= 0 or self._queue.rows >= enough:
            return False
        if self._delay_timer is None:
            self._delay_timer = asyncio.get_running_loop().call_later(left, self._delay_over)
        return True

    def _delay_over(self) -> None:
        self._delay_timer = None
        self._pump()

    def _rows_in_time(self, head: Ticket, now: float) -> int:
        """The largest batch that still meets deadline and target of the call at its head."""
        rows = self._max_rows
        if self._queue.rows <= head.rows or head.due == math.inf:
            return rows
        left = head.due - now
        for size in reversed(self.latency.sizes):
            if self.latency.predict(min(size, rows)) <= left:
                return max(head.rows, min(size, rows))
        return head.rows

    def _rows_to_run(self, head: Ticket, now: float) -> tuple[int, str]:
        """The most rows that should run now, and what keeps it from being more: see BatchRecord."""
        waiting = min(self._queue.rows, self._max_rows)
        in_time = self._rows_in_time(head, now)
        if in_time < waiting:
            return in_time, "deadline"
        preferred = self._batching.preferred_batch_sizes
        if preferred:
            good = max((size for size in preferred if size <= waiting), default=waiting)
        else:
            good = self.latency.good_size(waiting)
        rows = max(good, head.rows)
        return rows, "size" if rows < waiting else ""

    def _start(self, turn: Turn) -> None:
        """Runs what waits once the calls of this moment have come in: they share the batch."""
        self._turn_wait += _TURN_WEIGHT * (turn.began - turn.asked - self._turn_wait)
        asyncio.get_running_loop().call_soon(self._look, turn, 0, 0, self._clock())

    def _look(self, turn: Turn, seen: int, quiet: int, since: float) -> None:
        """A round of the event loop later. While a batch runs on the loop no call comes in, so that
        it starts when none has come for some rounds; any other starts now."""
        rows, now = self._queue.rows, self._clock()
        quiet, since = (quiet + 1, since) if rows == seen else (0, now)
        waits = quiet < _QUIET_ROUNDS and now - since < _QUIET_SECONDS
        if waits and 0 < rows < self._max_rows and self._runs_inline(rows):
            asyncio.get_running_loop().call_soon(self._look, turn, rows, quiet, since)
        else:
            self._run(turn)

    def _runs_inline(self, rows: int) -> bool:
        # Not by what it takes now: what slows a batch down slows a thread's wake-up down as well.
        return self.latency.at_load(rows) < self._inline_seconds

    def _run(self, turn: Turn) -> None:
        """Runs what waits now; a turn that cannot be used is given back, and the calls that it was
        for fail."""
        self._asked -= 1
        tickets: list[Ticket] = []
        try:
            self._run_batch(turn, tickets)
        except Exception as error:
            if turn in self._runs or self._turns.holds(turn):
                self._lose(turn, tickets, error)
            raise

    def _lose(self, turn: Turn, tickets: list[Ticket], error: Exception) -> None:
        self._active -= 1
        self._runs.pop(turn, None)
        self._turns.give_back(turn, self._clock())
        self._answer_due(-len(tickets))
        if self._stopped:
            error = ModelNotReady(f"model {self._name!r} is being unloaded")
        for ticket in tickets:
            if ticket.answer is not None and not ticket.answer.done():
                ticket.answer.set_exception(error)
        self._pump()

    def _run_batch(self, turn: Turn, tickets: list[Ticket]) -> None:
        now = self._clock()
        head = self._queue.peek()
        limit, limited_by = self._rows_to_run(head, now) if head is not None else (0, "")
        tickets += self._queue.pop_batch(limit)
        if not tickets:
            self._active -= 1
            self._turns.give_back(turn, now)
            return
        self._counters.pending -= len(tickets)
        for ticket in tickets:
            self._no_longer_waits(ticket)
        rows = sum(ticket.rows for ticket in tickets)
        turn.seconds = self.latency.predict(rows)
        turn.ends = now + turn.seconds
        batch = _Batch(turn, tickets, rows, now, limit, limited_by, self._queue.rows)
        parts = [part for ticket in tickets for part in ticket.parts]
        if self._runs_inline(rows):
            try:
                executed = self._execution.run(parts)
            except Exception as error:
                self._finish(batch, error)
            else:
                self._finish(batch, executed)
            return
        self._runs[turn] = now
        done = asyncio.get_running_loop().run_in_executor(self._threads, self._execution.run, parts)
        done.add_done_callback(lambda done: self._finish(batch, done.exception() or done.result()))
        # What was left may run beside it, where another instance is free.
        self._pump()

    def _finish(self, batch: "_Batch", outcome: Executed | BaseException) -> None:
        """Hands each caller its slice; a failed batch fails its own members and nobody else."""
        turn, tickets, rows, started = batch.turn, batch.tickets, batch.rows, batch.started
        answered = self._clock()
        self.recent.append(
            BatchRecord(
                started=started,
                rows=rows,
                calls=len(tickets),
                left_waiting=batch.left_waiting,
                limit=batch.limit,
                limited_by=batch.limited_by,
                longest_wait=started - min(ticket.arrived for ticket in tickets),
                predicted=turn.seconds,
                took=answered - started,
            )
        )
        self._active -= 1
        self._runs.pop(turn, None)
        # The next batch starts before anybody is answered: ours where no other model waits.
        self._pump()
        self._turns.give_back(turn, answered)
        self._answer_due(-len(tickets))
        if isinstance(outcome, BaseException):
            for ticket in tickets:
                if ticket.answer is not None and not ticket.answer.done():
                    ticket.answer.set_exception(outcome)
            return
        self.latency.observe(rows, outcome.gather + outcome.infer)
        self._batch_size.observe(rows)
        begin = 0
        waits = []
        for ticket in tickets:
            end = begin + ticket.rows
            if ticket.answer is not None and not ticket.answer.done():
                share = outcome.outputs
                if len(tickets) > 1:
                    share = {name: array[begin:end] for name, array in outcome.outputs.items()}
                waits.append(started - ticket.arrived)
                ticket.answer.set_result(Answer(share, waits[-1], outcome.infer, rows))
            begin = end
        self._counters.batch_done(
            rows, waits, outcome.gather, outcome.infer, self._clock() - answered
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch that runs: who rides in it, when it began, and what BatchRecord says of it."""

    turn: Turn
    tickets: list[Ticket]
    rows: int
    started: float
    limit: int
    limited_by: str
    left_waiting: int
