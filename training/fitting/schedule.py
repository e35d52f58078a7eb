"""The learning rate over time."""

import math

from training.recipes.optimizer import Constant, Cosine, MultiStep, OneCycle, Poly, Schedule, Step

# OneCycle starts at this share of the peak rate, and ends at this share of the start (1708.07120).
_CYCLE_START = 1 / 25
_CYCLE_END = 1e-4


def rate_factor(schedule: Schedule, step: int, steps: int, steps_per_epoch: float) -> float:
    """The factor of the optimiser's lr at `step` of `steps`, counted from 0."""
    if isinstance(schedule, OneCycle):
        up = schedule.warmup * steps
        if step < up:
            return _cosine(_CYCLE_START, 1.0, step / up)
        return _cosine(1.0, _CYCLE_START * _CYCLE_END, (step - up) / max(1.0, steps - up))
    up = schedule.warmup_epochs * steps_per_epoch
    if step < up:
        return (step + 1) / up
    epoch = int(step / steps_per_epoch)
    # The share of the time after the warm-up that has passed.
    share = min(1.0, (step - up) / max(1.0, steps - up))
    match schedule:
        case Constant():
            return 1.0
        case Step():
            return math.pow(schedule.gamma, epoch // schedule.step_size)
        case MultiStep():
            passed = [milestone for milestone in schedule.milestones if milestone <= epoch]
            return math.pow(schedule.gamma, len(passed))
        case Cosine():
            return _cosine(1.0, 0.0, share)
        case Poly():
            return math.pow(1.0 - share, schedule.power)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
