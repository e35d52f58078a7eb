"""The learning rate over time."""

import math

from training.recipe.optimizer import Constant, Cosine, OneCycle

# OneCycle starts at this share of the peak rate, and ends at this share of the start (1708.07120).
_CYCLE_START = 1 / 25
_CYCLE_END = 1e-4


def rate_factor(
    schedule: Constant | OneCycle | Cosine, step: int, steps: int, steps_per_epoch: float
) -> float:
    """What the optimiser's lr is multiplied with at `step` of `steps`, counted from 0."""
    match schedule:
        case Constant():
            return 1.0
        case OneCycle():
            up = schedule.warmup * steps
            if step < up:
                return _cosine(_CYCLE_START, 1.0, step / up)
            return _cosine(1.0, _CYCLE_START * _CYCLE_END, (step - up) / max(1.0, steps - up))
        case Cosine():
            up = schedule.warmup_epochs * steps_per_epoch
            if step < up:
                return (step + 1) / up
            return _cosine(1.0, 0.0, (step - up) / max(1.0, steps - up))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
