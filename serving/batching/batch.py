"""One batch, from asking for the cores to its record."""

from dataclasses import dataclass, field
from typing import NamedTuple

from serving.base.errors import EngineError
from serving.batching.core_turns import Turn
from serving.batching.execution import Executed
from serving.batching.ticket import ANSWERED, RUNNING, Answer, Ticket

# Batches that a batcher remembers for /debug/batches. More show a longer past and take more memory,
# some 300 bytes each.
RECENT_BATCHES = 128
# A batch that runs longer than both counts as stuck: seconds, and a multiple of its prediction.
# Smaller values report slow machines as stuck, larger ones report later.
_STUCK_SECONDS = 30.0
_STUCK_FACTOR = 50.0
# Why a batch had no more rows. Memory and fair shares of callers are not among them: what finds no
# memory never gets to the queue, and shares decide who goes first.
# empty: no other call waited.
# window: no other call came before max_queue_delay was over.
# full: it had max_batch_size rows.
# deadline: more rows would have made the call at its head too late.
# size: a smaller batch does as well, or the config prefers its size.
# next_call: the next call had more rows than there was room for.
# shape: the calls that were left had inputs of another shape.
LIMITS = ("empty", "window", "full", "deadline", "size", "next_call", "shape")


class BatchRecord(NamedTuple):
    """One batch and why it had its size, as `/debug/batches` shows it.

    started: monotonic seconds.
    rows, calls: its size.
    left_waiting: rows that were queued and did not ride.
    limit: the most rows that it was allowed.
    limited_by: why it had no more rows, a word of LIMITS.
    longest_wait: seconds since the first of its calls arrived.
    cores_wait: of these, the seconds for which it waited for cores that other batches had.
    predicted, took: seconds.
    infer: seconds in the engine; 0 where it failed.
    failed: its calls got an error.
    """

    started: float
    rows: int
    calls: int
    left_waiting: int
    limit: int
    limited_by: str
    longest_wait: float
    cores_wait: float
    predicted: float
    took: float
    infer: float
    failed: bool


@dataclass(slots=True, eq=False)
class Batch(Turn):
    """A turn on the cores and its calls.

    tickets: the calls that ride in it.
    started, rows, left_waiting, limit, limited_by, infer: as in BatchRecord.
    """

    tickets: list[Ticket] = field(default_factory=list, init=False)
    started: float = field(default=0.0, init=False)
    rows: int = field(default=0, init=False)
    left_waiting: int = field(default=0, init=False)
    limit: int = field(default=0, init=False)
    limited_by: str = field(default="", init=False)
    infer: float = field(default=0.0, init=False)

    def stuck_for(self, now: float) -> float:
        """Seconds that it has been running where it counts as stuck; else 0."""
        took = now - self.started
        return took if took > max(_STUCK_SECONDS, _STUCK_FACTOR * self.seconds) else 0.0

    def answer(self, executed: Executed) -> list[float]:
        """Hands each call its rows. Returns the seconds that each answered call had waited."""
        begin = 0
        waits = []
        self.infer = executed.infer
        for ticket in self.tickets:
            end = begin + ticket.rows
            # A cancelled call has no caller any more.
            if ticket.state is RUNNING:
                outputs = executed.outputs
                if len(self.tickets) > 1:
                    outputs = {name: array[begin:end] for name, array in outputs.items()}
                timing = ticket.timing
                timing.queue = self.started - ticket.arrived
                timing.infer, timing.began = executed.infer, executed.began
                waits.append(timing.queue)
                ticket.state = ANSWERED
                ticket.done(Answer(outputs, timing))
            begin = end
        return waits

    def fail(self, error: BaseException) -> None:
        """Fails each call that has no answer yet."""
        if isinstance(error, StopIteration) or not isinstance(error, Exception):
            # A coroutine cannot raise StopIteration; SystemExit and its like would end its task.
            error = EngineError(f"the batch ended with {type(error).__name__}: {error}")
        for ticket in self.tickets:
            if ticket.state is RUNNING:
                ticket.state = ANSWERED
                ticket.done(error)

    def record(self, answered: float, *, failed: bool) -> BatchRecord:
        """The record of the batch, which ended at `answered`, in monotonic seconds."""
        started, tickets = self.started, self.tickets
        return BatchRecord(
            started,
            self.rows,
            len(tickets),
            self.left_waiting,
            self.limit,
            self.limited_by,
            started - min([ticket.arrived for ticket in tickets]),
            self.began - self.asked,
            self.seconds,
            answered - started,
            self.infer,
            failed,
        )
