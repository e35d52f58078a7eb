"""Decides how many rows run now, and gives the reason. Pure functions: time is passed in."""

import math
from collections.abc import Sequence

from serving.batching.batch import Batch
from serving.batching.latency import LatencyTable
from serving.batching.ticket import Ticket

# Rounds of the event loop (1.4 us each) without a new call after which an inline batch starts; a
# gRPC call takes several rounds to come in. More make fuller batches, fewer a shorter wait, for
# which a single caller pays with CPU. For 1, 8 and 32 callers of a network of 20 us, 25 rounds
# took 8, 5 and 5 % more CPU a call than 10 on the native wire, with batches of the same size, and
# 3, -1 and -1 % on grpc.aio, where 32 callers filled 9.1 rows instead of 7.6.
QUIET_ROUNDS = 10
# Seconds: the longest such wait, for when calls to other models make the rounds long. Longer makes
# fuller batches, but holds the cores without work.
QUIET_SECONDS = 3e-4


def rows_to_run(
    waiting: int,
    head: Ticket,
    now: float,
    latency: LatencyTable,
    max_rows: int,
    preferred: Sequence[int],
) -> tuple[int, str]:
    """The most rows that should run now, and the reason where more wait that could run: "deadline"
    or "size", as batch.LIMITS has them; else "".

    waiting: rows that are queued, including those of `head`.
    head: the call that is to run first.
    preferred: batch sizes that the config wants; empty leaves the choice to `latency`.
    """
    usable = min(waiting, max_rows)
    in_time = rows_in_time(waiting, head, now, latency, max_rows)
    if in_time < usable:
        return in_time, "deadline"
    if preferred:
        good = max((size for size in preferred if size <= usable), default=usable)
    else:
        good = latency.good_size(usable)
    rows = max(good, head.rows)
    return rows, "size" if rows < usable else ""


def why_no_more(
    batch: Batch, limited_by: str, left: Ticket | None, max_rows: int, held_back: bool
) -> str:
    """The word of batch.LIMITS for a batch that has taken its calls.

    limited_by: the reason for its limit.
    left: the call that is to run next; None where none waits.
    held_back: it had waited for more calls, as long as the config allows.
    """
    if batch.rows < batch.limit and left is not None:
        return "next_call" if left.key == batch.tickets[0].key else "shape"
    if limited_by:
        return limited_by
    if batch.rows >= max_rows:
        return "full"
    return "window" if held_back else "empty"


def rows_in_time(
    waiting: int, head: Ticket, now: float, latency: LatencyTable, max_rows: int
) -> int:
    """The largest measured batch size that still meets the due time of the call at the head. The
    rows of that call where no size does; `max_rows` where it has no due time or waits alone."""
    if waiting <= head.rows or head.due == math.inf:
        return max_rows
    left = head.due - now
    for size in reversed(latency.sizes):
        if latency.predict(min(size, max_rows)) <= left:
            return max(head.rows, min(size, max_rows))
    return head.rows
