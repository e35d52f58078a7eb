"""Can this call be met? Decided on arrival, before anything is spent on it. Time is passed in."""

import math
from typing import NamedTuple

from serving.base.errors import QueueFull, Shed
from serving.batching.latency import LatencyTable


class Load(NamedTuple):
    """What a new call finds: rows admitted and not yet running that go before it and after it,
    calls among them of its own priority level, the seconds after which the first instance is free,
    and those that each later batch waits for cores that other models have."""

    rows_before: int
    rows_after: int
    calls_of_level: int
    busy_seconds: float
    turn_seconds: float
    instances: int


def predicted_wait(load: Load, rows: int, table: LatencyTable, max_batch_size: int) -> float:
    """Seconds from now until a call of `rows` that finds `load` is answered."""
    batches_before = math.ceil(load.rows_before / max_batch_size)
    partial = load.rows_before % max_batch_size
    shares = partial > 0 and partial + rows <= max_batch_size
    full = table.predict(max_batch_size)
    # What waits behind the call fills its batch up.
    waiting = load.rows_before + rows + load.rows_after
    own = table.predict(min(max_batch_size, waiting))
    # Rows that wait ride in the same batch as the new call where they all fit.
    rounds = batches_before - (1 if shares else 0)
    return load.busy_seconds + rounds * (full + load.turn_seconds) / load.instances + own


def longest_wait(
    busy_seconds: float,
    turn_seconds: float,
    rows_waiting: int,
    table: LatencyTable,
    max_batch_size: int,
) -> float:
    """Seconds that `predicted_wait` does not exceed, whatever goes before the call: those of one
    that comes behind all rows that wait and shares a batch with none of them."""
    full = table.predict(max_batch_size)
    return busy_seconds + (rows_waiting // max_batch_size + 2) * (full + turn_seconds)


def admit(
    load: Load,
    rows: int,
    table: LatencyTable,
    max_batch_size: int,
    max_queue_size: int,
    now: float,
    deadline: float,
) -> None:
    """Returns where a call may enter.

    Raises QueueFull where its priority level has no room for another call, Shed where the deadline
    (monotonic seconds, inf for none) would pass before the answer; both with the time after which a
    new try makes sense.
    """
    if load.calls_of_level >= max_queue_size:
        retry = load.busy_seconds + table.predict(max_batch_size) / load.instances
        raise QueueFull(
            f"queue is full: {load.calls_of_level} of {max_queue_size} places are taken", retry
        )
    if math.isinf(deadline):
        return
    wait = predicted_wait(load, rows, table, max_batch_size)
    left = deadline - now
    if wait > left:
        # A deadline shorter than the bare run is never met: one batch later is as good as any.
        retry = max(wait - left, table.predict(rows))
        raise Shed(
            f"cannot be met: needs about {wait * 1e3:.1f} ms, {left * 1e3:.1f} ms are left", retry
        )


class ByteBudget:
    """Bounds the request bytes that the server holds at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Raises QueueFull where the budget does not allow `size` more bytes. One call alone is
        always taken: the message limit has let it in."""
        if self.used and self.used + size > self.limit:
            raise QueueFull(
                f"{self.used} of {self.limit} bytes in flight are taken, {size} more do not fit",
                retry_after=0.1,
            )
        self.used += size

    def give_back(self, size: int) -> None:
        """Returns what `take` took."""
        self.used -= size
