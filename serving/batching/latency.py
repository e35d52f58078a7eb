"""Predicts the time of a batch, from measurements at load, corrected while serving."""

import bisect
from collections.abc import Mapping, Sequence

# Weight of the newest batch in the correction: larger follows faster, smaller is smoother. At 0.1
# the correction covers about the last ten batches.
_WEIGHT = 0.1
# Time per row of a good size, as a multiple of that of all waiting rows, at most. Larger makes
# smaller batches, 1 would follow the noise of the measurement.
_HARDLY_LONGER = 1.1
# Seconds a row that are assumed for a model that could not be timed, until its first batch. Larger
# might shed all calls, and no batch would ever correct it; smaller accepts calls that expire.
_UNMEASURED_SECONDS = 0.001


class LatencyTable:
    """Predicts the seconds of a batch from measurements at a few sizes.

    It interpolates between two sizes, and extends in proportion past the last. One factor for all
    sizes follows the batches that run, since a shared machine slows down as a whole.

    sizes: measured sizes in rows, ascending.
    measured: seconds of a batch, by ascending size; empty where they are assumed.
    factor: ratio of the time now to the time at load.
    """

    def __init__(self, seconds: Mapping[int, float], sizes: Sequence[int] = ()) -> None:
        """sizes: those of a model that could not be timed, for which there are no seconds."""
        self.measured = dict(sorted(seconds.items()))
        seconds = seconds or {size: size * _UNMEASURED_SECONDS for size in sizes}
        self.sizes = sorted(seconds)
        self._seconds = [seconds[size] for size in self.sizes]
        self._by_rows = [self._between(rows) for rows in range(self.sizes[-1] + 1)]
        self._good_sizes = [self._good_size(rows) for rows in range(self.sizes[-1] + 1)]
        self.factor = 1.0

    def predict(self, rows: int) -> float:
        """Seconds that a batch of `rows` is expected to take now."""
        return self.at_load(rows) * self.factor

    def observe(self, rows: int, seconds: float) -> None:
        """Corrects the factor by a batch that has run."""
        ratio = seconds / max(self.at_load(rows), 1e-9)
        # Bounded, or one stall (a page fault, a neighbour) would get all calls refused.
        ratio = min(max(ratio, 0.1 * self.factor), 10 * self.factor)
        self.factor += _WEIGHT * (ratio - self.factor)

    def at_load(self, rows: int) -> float:
        """Seconds that a batch of `rows` took when it was measured, without the factor."""
        if rows >= len(self._by_rows):
            return self._seconds[-1] * rows / self.sizes[-1]
        return self._by_rows[rows]

    def good_size(self, rows: int) -> int:
        """Batch size to run when `rows` wait: the largest measured size that takes at least half
        of them at no more than 10 % more time per row; otherwise `rows`.

        Measured sizes are powers of two, which give all threads the same work: two threads take as
        long for eleven rows as for twelve. An odd size would also persist where callers ask again
        as soon as they are answered: batches of 31 and 1 would alternate.
        """
        return self._good_sizes[rows] if rows < len(self._good_sizes) else rows

    def _good_size(self, rows: int) -> int:
        size = max((size for size in self.sizes if size <= rows), default=rows)
        whole, part = self._by_rows[rows], self._by_rows[size]
        return size if 2 * size >= rows and part * rows <= _HARDLY_LONGER * whole * size else rows

    def _between(self, rows: int) -> float:
        index = bisect.bisect_left(self.sizes, rows)
        if index == 0 or self.sizes[index] == rows:
            return self._seconds[index]
        low, high = self.sizes[index - 1], self.sizes[index]
        share = (rows - low) / (high - low)
        return self._seconds[index - 1] * (1 - share) + self._seconds[index] * share
