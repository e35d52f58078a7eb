"""Axes of plots: their ends, and the few round values that are labelled."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

# Labelled ticks of an axis; more meet each other on a phone.
_TICKS = 5
# Values beyond, and nan, do not widen an axis: their differences are no numbers any more.
_LARGE = 1e15


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, with the values that are labelled."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """The place of a value, 0 at the low end and 1 at the high one; values beyond lie there."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return min(1.0, max(0.0, (value - low) / (high - low)))


def linear(
    title: str,
    values: Iterable[float],
    low: float | None = None,
    high: float | None = None,
    *,
    whole: bool = False,
) -> Axis:
    """An axis around some values, or to the ends that are given.

    whole: whole numbers alone are labelled.
    """
    found = [value for value in values if abs(value) < _LARGE] or [0.0, 1.0]
    least, most = min(found), max(found)
    margin = 0.06 * (most - least) or 0.05 * abs(most) or 1.0
    start = least - margin if low is None else low
    end = max(most + margin if high is None else high, start + 1e-9)
    rough = (end - start) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
    step = max(1.0, step) if whole else step
    first = math.ceil(start / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    places = range(first, math.floor(end / step + 1e-9) + 1)
    return Axis(title, start, end, tuple((n * step, f"{n * step:,.{digits}f}") for n in places))


def logarithmic(title: str, values: Iterable[float]) -> Axis:
    """A logarithmic axis around positive values."""
    found = [value for value in values if 1 / _LARGE < value < _LARGE] or [1.0, 10.0]
    start, end = min(found) / 1.15, max(found) * 1.15
    powers = range(math.floor(math.log10(start)), math.ceil(math.log10(end)) + 1)
    for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        marks = [n * 10.0**power for power in powers for n in steps]
        inside = [mark for mark in marks if start <= mark <= end]
        if len(inside) <= _TICKS + 1:
            break
    inside = inside[:: -(-len(inside) // (_TICKS + 1)) or 1] or [start, end]
    return Axis(title, start, end, tuple((mark, f"{mark:.3g}") for mark in inside), log=True)
