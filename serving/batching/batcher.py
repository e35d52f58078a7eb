"""Groups calls into batches and runs them: as soon as an instance is free and something waits.

The loop of a batch: `_pump` asks for a turn on the cores, `_fill` lets the calls of this moment
come in, `_decide` picks the calls that ride, `_run` runs them, inline or on a thread, and `_answer`
hands each caller its rows. All bookkeeping happens on the event loop. An exception in any of these
steps ends in `_fail`, which gives the turn back and answers the calls: neither is ever lost.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial

from serving.base.errors import ModelNotReady, QueueFull, Shed
from serving.base.metrics import EngineMetrics
from serving.base.tensor import Array
from serving.batching.admission import Admission
from serving.batching.batch import RECENT_BATCHES, Batch, BatchRecord
from serving.batching.core_turns import CoreShare, CoreTurns
from serving.batching.execution import BatchExecution, Executed, Runner
from serving.batching.latency import LatencyTable
from serving.batching.overlap import Overlap
from serving.batching.port import BatchPort
from serving.batching.rounds import Rounds
from serving.batching.sizing import QUIET_ROUNDS, QUIET_SECONDS, rows_to_run, why_no_more
from serving.batching.ticket import RESERVED, WITHDRAWN, Done, Ticket, row_shapes
from serving.batching.waiting import RETRY_SECONDS, QueueDelay, Waiting
from serving.repository.model_config import Batching

logger = logging.getLogger(__name__)

# Bytes of inputs of other sizes than those measured at load with which a batch may run inline. More
# hold up the event loop for longer than that time says, 16 MiB for 50 ms.
_INLINE_BYTES = 64 << 10


class DynamicBatcher(BatchPort):
    """The batcher of one loaded version, in this process.

    max_batch_size: rows; 0 for a model without a batch dimension, whose calls run alone.
    instances: batches that may run at a time.
    overlap_rows: the engine gets the next batch shortly before the end of one where both have as
        many, and no other model waits for the cores; 0 for never.
    latency: predicts the seconds of a batch; each batch that runs corrects it.
    turns, cores: where batches ask for cores, and their number; 0 for work on another device.
    slo: seconds within which calls are answered: batches are kept small for it, or calls shed.
    inline_seconds: batches that were shorter when measured run inline on the event loop, since
        handing them to a thread would take longer.
    threads: run the other batches; `close` shuts them down. By default a pool of its own.
    recent: the last RECENT_BATCHES batches.
    starting: called with all batches that run, before another one starts.
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
        metrics: EngineMetrics,
        turns: CoreTurns,
        cores: int,
        overlap_rows: int = 0,
        slo: float = math.inf,
        inline_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        threads: Executor | None = None,
    ) -> None:
        self._name = model
        self._unloaded = f"model {model!r} is being unloaded"
        self._max_rows = max(1, max_batch_size)
        self._instances = instances
        self._latency = latency
        self.latency = latency.measured
        self.recent: deque[BatchRecord] = deque(maxlen=RECENT_BATCHES)
        self.starting: Callable[[Collection[Batch]], None] = lambda _: None
        self._turns, self._cores = turns, cores
        self._share = CoreShare()
        self._inline_seconds = inline_seconds
        # Whether a row always has the size with which it was measured at load.
        begin = 1 if max_batch_size else 0
        self._fixed = all(-1 not in spec.shape[begin:] for spec in engine.inputs)
        self._metrics, self._counters = metrics, metrics.counters(model, version)
        self._batch_size = metrics.batch_size.labels(model, version)
        self._clock = clock
        self._waiting = Waiting(
            self._counters, clock, partial(metrics.shed.count, model, "expired")
        )
        self._queue = queue = self._waiting.queue
        metrics.queue_depth.labels(model, version).set_function(lambda: queue.rows)
        self._rounds = Rounds(self._max_rows)
        self._admission = Admission(
            self._waiting, batching, latency, self._max_rows, instances, slo, self._share,
            self._busy_seconds, self._rounds,
        )  # fmt: skip
        # Batches that wait for cores, and batches that run; each holds one instance.
        self._asked: set[Batch] = set()
        self._running: set[Batch] = set()
        self._overlap = Overlap(overlap_rows)
        self._pumping = False
        self._delay = QueueDelay(self._queue, batching, self._max_rows, self._pump)
        self._preferred = batching.preferred_batch_sizes
        self._closed = False
        self._execution = BatchExecution(
            engine, max_batch_size, instances + self._overlap.wanted, clock, threads,
            f"infer-{model}-{version}", gives_way=cores > 0,
        )  # fmt: skip

    def admit(
        self,
        rows: int,
        priority: int,
        deadline: float,
        timeout: float = math.inf,
        caller: int = 0,
    ) -> Ticket:
        """`BatchPort.admit`."""
        if self._closed:
            raise ModelNotReady(self._unloaded)
        try:
            return self._admission.admit(rows, priority, deadline, timeout, self._clock(), caller)
        except (QueueFull, Shed) as refusal:
            reason = "deadline" if isinstance(refusal, Shed) else "queue_full"
            self._metrics.shed.count(self._name, reason)
            raise

    def shrink(self, ticket: Ticket, rows: int) -> None:
        """`BatchPort.shrink`."""
        self._waiting.shrink(ticket, rows)

    def submit(self, ticket: Ticket, parts: Sequence[Mapping[str, Array]], done: Done) -> None:
        """`BatchPort.submit`."""
        if ticket.state is not RESERVED:
            raise ModelNotReady(self._unloaded)
        try:
            ticket.parts = parts
            if ticket.key is None:
                ticket.key = row_shapes(parts[0])
            ticket.done = done
            self._waiting.ready(ticket)
            self._pump()
        except BaseException:
            self._waiting.leave(ticket, WITHDRAWN)
            raise

    def withdraw(self, ticket: Ticket) -> None:
        """`BatchPort.withdraw`."""
        if self._waiting.withdraw(ticket):
            self._metrics.cancelled.count(self._name)

    async def drain(self, seconds: float) -> bool:
        """`BatchPort.drain`. Calls that are left fail: the threads are stopped next."""
        self._closed = True
        self._delay.stop()
        try:
            async with asyncio.timeout(seconds):
                self._pump()
                await self._waiting.idle.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.refuse(ModelNotReady(self._unloaded))
        return True

    def close(self) -> None:
        """`BatchPort.close`: stops the threads."""
        self._closed = True
        self._execution.close()

    async def confirm(self, ticket: Ticket) -> None:
        """`BatchPort.confirm`: `admit` has looked already."""

    async def recent_batches(self) -> Sequence[BatchRecord]:
        """`BatchPort.recent_batches`."""
        return list(self.recent)

    def stuck_for(self) -> float:
        """`BatchPort.stuck_for`."""
        return max((batch.stuck_for(self._clock()) for batch in self._running), default=0.0)

    def _busy_seconds(self, now: float) -> float:
        """Seconds until the next batch may start: a turn on the cores, and an instance."""
        rest = self._overlap.begins(now) - now
        if self._running and self._taken >= self._instances:
            kept = self._running - self._overlap.ending
            rest = max(rest, min((batch.ends for batch in kept), default=now) - now)
        return max(rest, self._turns.wait(self._share, self._cores, now))

    @property
    def _taken(self) -> int:
        """Instances that a batch holds or waits for cores with."""
        return len(self._asked) + len(self._running) - len(self._overlap.ending)

    def _pump(self) -> None:
        """Asks for a turn for each free instance while something waits."""
        if self._pumping:
            return
        self._pumping = True
        while self._taken < self._instances:
            rows = self._queue.rows
            # A batch that was asked for takes all waiting rows that fit when its turn comes.
            if rows <= len(self._asked) * self._max_rows:
                break
            batch = Batch(self._share, self._cores, 0.0, self._start, self._fail)
            try:
                now = self._clock()
                if self._delay.holds_back(now):
                    break
                batch.seconds = self._latency.predict(min(rows, self._max_rows))
                self._asked.add(batch)
                self._turns.ask(batch, now)
            except BaseException as error:
                self._fail(batch, error)
                if not batch.tickets:
                    asyncio.get_running_loop().call_later(RETRY_SECONDS, self._pump)
                    break
        self._pumping = False

    def _start(self, batch: Batch) -> None:
        """Called when the turn is granted, while any model asks for a turn or gives one back."""
        asyncio.get_running_loop().call_soon(self._fill, batch, 0, 0, batch.began)

    def _fill(self, batch: Batch, seen: int, quiet: int, since: float) -> None:
        """Called each round of the event loop until the batch starts. An inline batch blocks the
        loop, so it starts after QUIET_ROUNDS rounds without a new call; a threaded batch at once.
        seen: rows that waited a round ago. quiet, since: rounds without a new call, their begin."""
        try:
            rows, now = self._queue.rows, self._clock()
            quiet, since = (quiet + 1, since) if rows == seen else (0, now)
            waits = quiet < QUIET_ROUNDS and now - since < QUIET_SECONDS
            if waits and 0 < rows < self._max_rows and self._runs_inline(rows):
                asyncio.get_running_loop().call_soon(self._fill, batch, rows, quiet, since)
            elif self._decide(batch, now):
                self._run(batch)
            else:
                self._end(batch, now)
        except BaseException as error:
            self._fail(batch, error)
            if not isinstance(error, Exception):
                raise

    def _decide(self, batch: Batch, now: float) -> bool:
        """Takes the calls that ride in the batch; False where all have expired or gone away."""
        if (head := self._queue.peek()) is None:
            return False
        begins = self._overlap.begins(now)
        batch.limit, limited_by = rows_to_run(
            self._queue.rows, head, begins, self._latency, self._max_rows, self._preferred
        )
        self._asked.discard(batch)
        self._running.add(batch)
        batch.started = now
        batch.tickets = self._waiting.take(batch.limit)
        self._rounds.begun(batch.tickets)
        batch.rows = rows = sum([ticket.rows for ticket in batch.tickets])
        for ticket in batch.tickets:
            timing = ticket.timing
            timing.started, timing.batch_size = now, rows
        batch.left_waiting = self._queue.rows
        batch.limited_by = why_no_more(
            batch, limited_by, self._queue.peek(), self._max_rows, self._delay.held_back(rows)
        )
        batch.ends = begins + self._latency.predict(batch.rows)
        batch.seconds = batch.ends - now
        self.starting(self._running)
        return True

    def _run(self, batch: Batch) -> None:
        parts = [part for ticket in batch.tickets for part in ticket.parts]
        inline = self._runs_inline(batch.rows) and (self._fixed or _few_bytes(parts))
        if not inline:
            self._overlap.expect(batch, self._about_to_end)
        self._execution.start(parts, inline, lambda outcome: self._answer(batch, outcome))
        if not inline:
            # The calls that are left may run beside it where another instance is free.
            self._pump()

    def _about_to_end(self, batch: Batch) -> None:
        """Lets the next batch of this model in where it is worth it."""
        now = self._clock()
        may_follow = self._overlap.may_follow(batch, self._queue.rows)
        if may_follow and not self._turns.others_wait(self._share):
            self._overlap.ending.add(batch)
            self._turns.give_back(batch, now)
            self._pump()

    def _runs_inline(self, rows: int) -> bool:
        # By the time at load: on a machine that is slow now, threads also wake later.
        return self._latency.at_load(rows) < self._inline_seconds

    def _answer(self, batch: Batch, outcome: Executed | BaseException) -> None:
        """Hands each caller its rows. A failed batch fails its own calls alone."""
        try:
            answered = self._clock()
            self._end(batch, answered)
            if isinstance(outcome, BaseException):
                batch.fail(outcome)
            else:
                waits = batch.answer(outcome)
                self._latency.observe(batch.rows, outcome.gather + self._overlap.seconds(outcome))
                self._batch_size.observe(batch.rows)
                scatter = self._clock() - answered
                self._counters.batch_done(batch.rows, waits, outcome.gather, outcome.infer, scatter)
            failed = isinstance(outcome, BaseException)
            self.recent.append(batch.record(answered, failed=failed))
        except BaseException as error:
            self._fail(batch, error)

    def _end(self, batch: Batch, now: float) -> None:
        """Gives instance and cores back, once. The next batch asks for cores first, so that it
        starts before the answers where no other model waits."""
        self._asked.discard(batch)
        self._overlap.over(batch)
        if batch in self._running:
            self._running.remove(batch)
            self._waiting.finished(len(batch.tickets))
        self._pump()
        self._turns.give_back(batch, now)

    def _fail(self, batch: Batch, error: BaseException) -> None:
        """Called where a step above raised: ends the turn, charged at its prediction, and fails
        the calls of the batch. A batch without calls takes its calls now, so that every turn
        shortens the queue even where a step always fails."""
        if not isinstance(error, ModelNotReady):
            logger.error("batch failed", exc_info=error, extra={"model": self._name})
        if not batch.tickets:
            self._running.add(batch)
            with suppress(Exception):
                batch.tickets = self._waiting.take(self._max_rows)
        self._end(batch, batch.ends)
        batch.fail(error)


def _few_bytes(parts: Sequence[Mapping[str, Array]]) -> bool:
    return sum(array.nbytes for part in parts for array in part.values()) <= _INLINE_BYTES
