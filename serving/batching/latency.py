"""How long a batch of a given size takes: measured at load, cached, corrected while serving."""

import bisect
import json
import math
from collections.abc import Mapping
from pathlib import Path

# Weight of the newest batch in the correction: some ten batches forget what was before.
_WEIGHT = 0.1
# Times a row of a larger batch: what a row of a good size may take. Machines are noisy.
_HARDLY_LONGER = 1.1


class LatencyTable:
    """Predicts the seconds that a batch takes from those measured at a few sizes.

    Between two sizes it interpolates, past the last it extends in proportion. One factor, shared by
    all sizes, follows what batches really take: machines are shared, and slow down as a whole.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self.sizes = sorted(seconds)
        self._seconds = [seconds[size] for size in self.sizes]
        self.measured = dict(sorted(seconds.items()))
        self._by_rows = [self._between(rows) for rows in range(self.sizes[-1] + 1)]
        self._good_sizes = [self._good_size(rows) for rows in range(self.sizes[-1] + 1)]
        self.factor = 1.0

    def predict(self, rows: int) -> float:
        """Seconds that a batch of `rows` is expected to take now."""
        return self.at_load(rows) * self.factor

    def observe(self, rows: int, seconds: float) -> None:
        """Corrects the factor by a batch that has run."""
        ratio = seconds / max(self.at_load(rows), 1e-9)
        # One stall (a page fault, a neighbour) must not close the door to everybody.
        ratio = min(max(ratio, 0.1 * self.factor), 10 * self.factor)
        self.factor += _WEIGHT * (ratio - self.factor)

    def at_load(self, rows: int) -> float:
        """Seconds that a batch of `rows` took when it was measured, whatever came since."""
        if rows >= len(self._by_rows):
            return self._seconds[-1] * rows / self.sizes[-1]
        return self._by_rows[rows]

    def good_size(self, rows: int) -> int:
        """How many of `rows` had best share a batch: the largest size that was measured, where it
        is at least half of them and hardly slower a row than all together; else all.

        The sizes that are measured are powers of two, which engines do best with: all threads have
        as much to do. Eleven rows take two threads as long as twelve do, and an odd size stays
        where callers ask again as soon as they are answered: 31 and 1, in turns.
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


def read_cached(path: Path) -> dict[int, float] | None:
    """Seconds by batch size as `write_cached` left them; None where there is no usable file."""
    try:
        content = json.loads(path.read_text())
        table = {int(size): float(seconds) for size, seconds in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    usable = all(size > 0 and 0 < seconds < math.inf for size, seconds in table.items())
    return table if table and usable else None


def write_cached(path: Path, seconds: Mapping[int, float]) -> None:
    """Keeps a measurement; a cache that cannot be written costs the next start its time only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(dict(seconds)))
        partial.replace(path)
    except OSError:
        return
