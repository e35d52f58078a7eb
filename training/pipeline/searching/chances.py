"""Which candidates can still win by a search's bound.

A candidate is given up only where it cannot: too slow by a measurement that does not depend on its
weights, or so inaccurate that no training of this search has ever caught up half as far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from training.evaluation.searched import Tried
from training.pipeline.bound import Bound

Part = Literal["train", "prune"]
"""What is trained: a whole network, or a pruned one further."""

# Two measurements of one file differ by up to this factor on a machine that does other work too.
_NOISE = 1.15
# Trainings to their end by which others are judged: fewer say little about the next one.
_LEAST_CURVES = 3
# Of the error that the best training so far has left at its end, as a share of its error at an
# epoch, another one may leave this much.
_OPTIMISM = 0.5


@dataclass
class Chances:
    """The candidates that were measured, and what they leave for others.

    bound: of the search.
    reference: accuracy of the recipe's own network, from which drops count.
    told: the same as its training told it, on all validation images, as `curves` are.
    tried: measured candidates.
    curves: of trainings that came to their end: the accuracy on validation images after each epoch,
        first the one before it.
    """

    bound: Bound
    reference: float = 0.0
    told: float = 0.0
    tried: list[Tried] = field(default_factory=list)
    curves: dict[Part, list[Sequence[float]]] = field(
        default_factory=lambda: {"train": [], "prune": []}
    )

    def most_milliseconds(self) -> float:
        """A slower candidate does not win: it exceeds the bound, or the time of one that is
        accurate enough."""
        if self.bound.what == "latency":
            return self.bound.most
        kept = [one.milliseconds for one in self.tried if self.bound.kept_by(one)]
        return min(kept, default=math.inf)

    def is_fast_enough(self, milliseconds: float) -> bool:
        """Whether a candidate of that latency can win; one that no engine runs cannot."""
        return math.isfinite(milliseconds) and milliseconds <= _NOISE * self.most_milliseconds()

    def least_accuracy(self) -> float:
        """A less accurate candidate does not win: it exceeds the bound, or the drop of one that is
        fast enough."""
        if self.bound.what == "drop":
            return self.reference - self.bound.most / 100
        kept = [one.drop for one in self.tried if self.bound.kept_by(one)]
        return self.reference - min(kept, default=math.inf)

    def is_within_reach(self, part: Part, epoch: int, accuracy: float) -> bool:
        """Whether a training with this accuracy after an epoch (0: before the first) can win: were
        its error from here on to fall to half of what the best training so far has made of its
        own."""
        shares = [
            (1 - max(curve[epoch:])) / (1 - curve[epoch])
            for curve in self.curves[part]
            if len(curve) > epoch and curve[epoch] < 1
        ]
        if len(shares) < _LEAST_CURVES:
            return True
        least = self.least_accuracy() + min(0.0, self.told - self.reference)
        return 1 - _OPTIMISM * min(shares) * (1 - accuracy) >= least
