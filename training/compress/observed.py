"""What calibration keeps of a tensor: extremes, a histogram, the mean of each channel."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Ends = tuple[np.float32, np.float32]

# Percent of the values of a tensor that lie within its range; the rest is cut.
PERCENTILE = 99.99
# Bins of a histogram on either side of 0; a power of two, so that bins can be joined. A bin is at
# most 1/2048 of the largest magnitude; more bins cut more exactly and take 16 bytes each a tensor.
_HALF = 4096
# Places of the largest images whose mean is kept; of larger ones that of the channels is: borders
# are a small part of them, and it would take as much memory as an image.
_PLACES = 4096
# Values that are binned at a time: temporaries of this many stay in the L2 cache.
_BLOCK = 1 << 16
# The finest histogram reaches to 2**-100: finer ones would need factors beyond float32. Tensors
# whose values are all smaller keep their extremes.
_LEAST_EXPONENT = -100
# Shares of the extremes that are tried as ends of a range. Finer steps change an end by less than a
# level of the grid; below the first, so much would be cut that no histogram seen here chose it.
_SHARES = np.linspace(0.2, 1.0, 41)


class Observed:
    """Extremes of a tensor; with `binned` a histogram of its values, with `axis`, that of the
    channels, its mean over the images.

    The histogram reaches from -2**exponent to 2**exponent. Where a batch goes beyond, the exponent
    grows and neighbouring bins are joined. As borders are powers of two times integers, the counts
    are the same however the values are divided into batches.
    """

    def __init__(self, *, binned: bool, axis: int | None = None) -> None:
        self.lowest = np.float32(np.inf)
        self.highest = np.float32(-np.inf)
        self.counts = np.zeros(2 * _HALF, np.int64) if binned else None
        self.exponent = _LEAST_EXPONENT
        self._axis = axis
        self._sums: NDArray[np.float64] | None = None
        self._summed = 0

    def add(self, values: Values) -> None:
        """Merges values of any shape. Raises ValueError where one of them is not finite."""
        if values.size == 0:
            return
        lowest, highest = values.min(), values.max()
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise ValueError("holds values that are not finite")
        self.lowest = min(self.lowest, lowest)
        self.highest = max(self.highest, highest)
        if self.counts is not None:
            peak = max(abs(lowest), abs(highest))
            if peak > 0:
                self._widen(int(np.frexp(peak)[1]))
            self._count(values.reshape(-1))
        if self._axis is not None and values.ndim > 1:
            self._sum(values, self._axis % values.ndim)

    def _widen(self, exponent: int) -> None:
        """Joins bins until the histogram reaches to 2**exponent."""
        if self.counts is None or exponent <= self.exponent:
            return
        factor = min(2 ** (exponent - self.exponent), _HALF)
        joined = self.counts.reshape(-1, factor).sum(axis=1)
        kept = len(joined) // 2
        self.counts = np.zeros(2 * _HALF, np.int64)
        self.counts[_HALF - kept : _HALF + kept] = joined
        self.exponent = exponent

    def _count(self, values: Values) -> None:
        assert self.counts is not None
        # Multiplied by a power of two, a value keeps all its bits: no bin is missed by rounding.
        scale = np.float32(_HALF / 2.0**self.exponent)
        for start in range(0, len(values), _BLOCK):
            places = np.floor(values[start : start + _BLOCK] * scale).astype(np.intp) + _HALF
            self.counts += np.bincount(places, minlength=2 * _HALF)

    def _sum(self, values: Values, axis: int) -> None:
        others: tuple[int, ...] = (0,)
        count = len(values)
        if values[0].size > _PLACES * values.shape[axis]:
            others = tuple(place for place in range(values.ndim) if place != axis)
            count = values.size // values.shape[axis]
        sums = values.sum(axis=others, dtype=np.float64)
        if self._sums is None:
            self._sums = np.zeros(sums.shape)
        # Of inputs that differ in size those count that are as the first is.
        if self._sums.shape == sums.shape:
            self._sums += sums
            self._summed += count

    def mean(self) -> NDArray[np.float64] | None:
        """The mean over the images, in the shape of one, or of each channel where an image has more
        than 4,096 places; None where no axis was given."""
        return None if self._sums is None else self._sums / self._summed

    def extremes(self, *, symmetric: bool) -> Ends:
        """Lowest and highest value; with `symmetric` the largest magnitude on both sides."""
        if symmetric:
            peak = max(abs(self.lowest), abs(self.highest))
            return -peak, peak
        return self.lowest, self.highest

    def percentile(self, percent: float, *, symmetric: bool) -> Ends:
        """The range outside of which lie at most 100 - `percent` percent of the values, as many on
        either side, or with `symmetric` those of the largest magnitude. Ends are at most one bin
        further out than the exact percentiles, and never beyond the extremes.

        Raises ValueError where no histogram was kept.
        """
        if self.counts is None:
            raise ValueError("expected a histogram")
        lowest, highest = self.extremes(symmetric=symmetric)
        width = 2.0**self.exponent / _HALF
        share = percent / 100
        if symmetric:
            magnitudes = self.counts[_HALF:] + self.counts[_HALF - 1 :: -1]
            end = np.float32(width * (_bin_of(magnitudes, share) + 1))
            return max(lowest, -end), min(highest, end)
        left = width * (_bin_of(self.counts, (1 - share) / 2) - _HALF)
        right = width * (_bin_of(self.counts, (1 + share) / 2) + 1 - _HALF)
        return max(lowest, np.float32(left)), min(highest, np.float32(right))

    def least_error(self, *, symmetric: bool) -> Ends:
        """The range that leaves the least squared error when its values are rounded to 8 bits and
        those outside are cut (arXiv 2106.08295, §3.1); within the extremes, and around 0.

        Raises ValueError where no histogram was kept.
        """
        if self.counts is None:
            raise ValueError("expected a histogram")
        lowest, highest = (float(end) for end in self.extremes(symmetric=symmetric))
        places = np.flatnonzero(self.counts)
        values = (places.astype(np.float64) - _HALF + 0.5) * (2.0**self.exponent / _HALF)
        weights = self.counts[places].astype(np.float64)
        low, high = _SHARES * min(lowest, 0.0), _SHARES * max(highest, 0.0)
        if symmetric:
            best = _least(values, weights, low, high, 254)
            return np.float32(low[best]), np.float32(high[best])
        left, right = low[-1], high[-1]
        # One end after the other: the second time the first one knows the other's choice.
        for _ in range(2 if left < 0 < right else 1):
            left = low[_least(values, weights, low, np.full_like(low, right), 255)]
            right = high[_least(values, weights, np.full_like(high, left), high, 255)]
        return np.float32(left), np.float32(right)


def _least(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    steps: int,
) -> int:
    """Which of the ranges leaves the least squared error; the widest of equals."""
    errors = []
    for start, end in zip(low, high, strict=True):
        step = (end - start) / steps or 1.0
        zero = round(-start / step)
        rounded = np.clip(np.rint(values / step), -zero, steps - zero) * step
        errors.append(weights @ (values - rounded) ** 2)
    return len(errors) - 1 - int(np.argmin(errors[::-1]))


def _bin_of(counts: NDArray[np.int64], share: float) -> int:
    """The bin in which `share` of the values is reached."""
    running = np.cumsum(counts)
    return int(np.searchsorted(running, share * running[-1]))
