"""How many rows run now, and why. Pure: time is passed in."""

import math
from collections.abc import Sequence

from serving.batching.latency import LatencyTable
from serving.batching.ticket import Ticket

# Rounds of the event loop (1.4 us each) without a new call after which an inline batch starts; a
# gRPC call takes several to come in. More make fuller batches, fewer a shorter wait: with 32
# callers of a network of 20 us a call costs 190 us of CPU, without 350, and a single caller waits
# for 30 us.
QUIET_ROUNDS = 25
# Seconds: bounds the same wait where calls to other models make the rounds long. More make fuller
# batches, but hold the cores without work.
QUIET_SECONDS = 3e-4


def rows_to_run(
    waiting: int,
    head: Ticket,
    now: float,
    latency: LatencyTable,
    max_rows: int,
    preferred: Sequence[int],
) -> tuple[int, str]:
    """The most rows that should run now, and why there are not more, as BatchRecord.limited_by
    says it.

    waiting: rows that are queued, those of `head` included, which is to run first.
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


def rows_in_time(
    waiting: int, head: Ticket, now: float, latency: LatencyTable, max_rows: int
) -> int:
    """The largest measured batch size that still meets the due time of the call at the head; its
    own rows where none does, `max_rows` where there is nothing to be in time for."""
    if waiting <= head.rows or head.due == math.inf:
        return max_rows
    left = head.due - now
    for size in reversed(latency.sizes):
        if latency.predict(min(size, max_rows)) <= left:
            return max(head.rows, min(size, max_rows))
    return head.rows
