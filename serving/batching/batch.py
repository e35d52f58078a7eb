"""One batch, from asking for the cores to its record."""

from dataclasses import dataclass, field

from serving.base.errors import EngineError
from serving.batching.core_turns import Turn
from serving.batching.execution import Executed
from serving.batching.ticket import ANSWERED, RUNNING, Answer, Ticket

# Batches that a batcher remembers for /debug/batches. More show a longer past and take more memory.
RECENT_BATCHES = 64
# A batch that runs longer than both counts as stuck: seconds, and a multiple of its prediction.
# Smaller values report slow machines as stuck, larger ones report later.
_STUCK_SECONDS = 30.0
_STUCK_FACTOR = 50.0


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch and why it had its size, as `/debug/batches` shows it.

    started: monotonic seconds.
    rows, calls: its size.
    left_waiting: rows that were queued and did not ride.
    limit: the most rows that it was allowed.
    limited_by: "deadline" where more rows would have made the call at its head too late; "size"
        where a smaller batch does as well or the config prefers its size; "" where all rows that
        waited and fit were taken.
    longest_wait: seconds since the first of its calls arrived.
    predicted, took: seconds.
    """

    started: float
    rows: int
    calls: int
    left_waiting: int
    limit: int
    limited_by: str
    longest_wait: float
    predicted: float
    took: float


@dataclass(slots=True, eq=False)
class Batch(Turn):
    """A turn on the cores and its calls.

    tickets: the calls that ride in it.
    started, rows, left_waiting, limit, limited_by: as in BatchRecord.
    """

    tickets: list[Ticket] = field(default_factory=list, init=False)
    started: float = field(default=0.0, init=False)
    rows: int = field(default=0, init=False)
    left_waiting: int = field(default=0, init=False)
    limit: int = field(default=0, init=False)
    limited_by: str = field(default="", init=False)

    def stuck_for(self, now: float) -> float:
        """Seconds that it has been running where it counts as stuck; else 0."""
        took = now - self.started
        return took if took > max(_STUCK_SECONDS, _STUCK_FACTOR * self.seconds) else 0.0

    def answer(self, executed: Executed) -> list[float]:
        """Hands each call its rows. Returns the seconds that each answered call had waited."""
        begin = 0
        waits = []
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

    def record(self, answered: float) -> BatchRecord:
        """The record of the batch, which ended at `answered`, in monotonic seconds."""
        return BatchRecord(
            started=self.started,
            rows=self.rows,
            calls=len(self.tickets),
            left_waiting=self.left_waiting,
            limit=self.limit,
            limited_by=self.limited_by,
            longest_wait=self.started - min(ticket.arrived for ticket in self.tickets),
            predicted=self.seconds,
            took=answered - self.started,
        )
