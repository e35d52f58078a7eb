"""The bound of a search, as --search is given it; read before torch is imported."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serving.base.errors import quoted
from training.errors import TargetNotReached
from training.evaluation.searched import Tried

# Points; less than an answer of any split, more than floats lose.
_ROUNDING = 1e-7

_BOUND = re.compile(r"(latency|drop)\s*<=\s*(\d+\.?\d*|\.\d+)")


@dataclass(frozen=True)
class Bound:
    """`latency<=X`, milliseconds of a call, or `drop<=Y`, points of accuracy."""

    what: Literal["latency", "drop"]
    most: float

    def __str__(self) -> str:
        unit = "ms" if self.what == "latency" else "points"
        return f"{self.what} <= {self.most:g} {unit}"

    def kept_by(self, one: Tried) -> bool:
        """Whether a network is fast enough, or accurate enough."""
        if self.what == "latency":
            return one.milliseconds <= self.most
        return self.keeps_drop(one.drop)

    def keeps_drop(self, drop: float) -> bool:
        """Whether a bound on the drop allows this one; 0.01 is one point."""
        return 100 * drop <= self.most + _ROUNDING

    def choose(self, tried: Sequence[Tried]) -> Tried:
        """The most accurate of those that are fast enough, or the fastest of those that are
        accurate enough. Raises TargetNotReached with the nearest."""
        kept = [one for one in tried if self.kept_by(one)]
        if self.what == "latency":
            if kept:
                return min(kept, key=lambda one: (one.drop, one.milliseconds))
            nearest = min(tried, key=lambda one: one.milliseconds)
        else:
            if kept:
                return min(kept, key=lambda one: (one.milliseconds, one.drop))
            nearest = min(tried, key=lambda one: one.drop)
        raise TargetNotReached(
            f"--search {self}: none of {len(tried)} networks keeps it; the nearest is "
            f"{nearest.point} with {nearest.milliseconds:.3f} ms and a drop of "
            f"{100 * nearest.drop:.2f} points"
        )


def parse_bound(text: str) -> Bound:
    """Reads the bound of a search. Raises ValueError."""
    match = _BOUND.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"expected latency<=MILLISECONDS or drop<=POINTS, such as drop<=1.5; got {quoted(text)}"
        )
    what, most = match[1], float(match[2])
    if what == "latency" and most == 0:
        raise ValueError(f"expected more than 0 milliseconds, got {quoted(text)}")
    return Bound("latency" if what == "latency" else "drop", most)
