"""What is counted of one version: its calls and its batches."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.base.counting.sums import Count, Duration, Level, Sums


class Newest:
    """Milliseconds since 1970 of the newest event of a kind; 0 before the first."""

    __slots__ = ("ms",)

    def __init__(self) -> None:
        self.ms = 0

    def numbers(self) -> Sequence[float]:
        """[ms]"""
        return (self.ms,)

    def add(self, numbers: Sequence[float]) -> None:
        """The newer of the two."""
        self.ms = max(self.ms, int(numbers[0]))


@dataclass(slots=True)
class BatchTimes:
    """Times of batches: gather, infer, scatter."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def _all(self) -> tuple[Duration, ...]:
        return self.compute_input, self.compute_infer, self.compute_output

    def numbers(self) -> Sequence[float]:
        """Events and nanoseconds of the three."""
        return [number for part in self._all() for number in part.numbers()]

    def add(self, numbers: Sequence[float]) -> None:
        """Adds those of another process."""
        for index, part in enumerate(self._all()):
            part.add(numbers[2 * index : 2 * index + 2])


@dataclass(slots=True)
class CallCounters:
    """The calls of one version by how they ended, with their time from arrival to answer."""

    success: Duration
    fail: Duration


@dataclass(slots=True)
class BatchCounters:
    """The batches of one version. A request may hold several inferences (rows of a batch).

    queue: requests and the time that they waited.
    compute: requests and the time of the three steps of their batches.
    inferences: rows that ran.
    executions: batches that ran.
    last: end of the last batch.
    pending: requests in the queue.
    by_size: times by batch size, of every version.
    labels: those of the version.
    """

    queue: Duration
    compute: BatchTimes
    inferences: Count
    executions: Count
    last: Newest
    pending: Level
    by_size: Sums[BatchTimes]
    labels: tuple[str, str]
    _of_size: dict[int, BatchTimes] = field(default_factory=dict)

    def batch_done(
        self, rows: int, waits: Sequence[float], gather: float, infer: float, scatter: float
    ) -> None:
        """Counts a batch that ran.

        waits: seconds in the queue, one for each answered call.
        gather, infer, scatter: seconds of the three steps; each of those calls is charged all.
        """
        # Without their lock: nobody else writes to them.
        self.executions.value += 1
        self.inferences.value += rows
        self.last.ms = int(time.time() * 1e3)
        batch = self._of_size.get(rows)
        if batch is None:
            batch = self._of_size[rows] = self.by_size.labels(*self.labels, str(rows))
        compute, calls = self.compute, len(waits)
        self.queue.took(sum(waits), calls)
        for total, of_size, seconds in (
            (compute.compute_input, batch.compute_input, gather),
            (compute.compute_infer, batch.compute_infer, infer),
            (compute.compute_output, batch.compute_output, scatter),
        ):
            of_size.took(seconds)
            total.took(seconds * calls, calls)
