"""The highest rate that keeps a p99: bracketing, then bisection."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from loadtest.report import latency
from loadtest.report.summary import lateness_of
from loadtest.results import OK, Phase

# A step whose p99 is on one side of the limit with less confidence is measured once more, longer.
_SURE = 0.95
_LOWEST_RATE = 0.5


@dataclass(frozen=True)
class Goal:
    """p99 at most `p99` and lateness of the generator at most `max_lateness` (seconds), error rate
    at most `error_rate`; rates are told apart to `precision`, a share."""

    p99: float
    error_rate: float
    precision: float
    max_lateness: float


@dataclass(frozen=True)
class Step:
    """What one rate gave. `confidence` is the share of resampled runs whose p99 is on the same side
    of the limit; `generator` says that the generator, not the server, failed."""

    rate: float
    passed: bool
    p99_ms: float
    low_ms: float
    high_ms: float
    error_rate: float
    confidence: float
    generator: bool
    reason: str


@dataclass(frozen=True)
class SearchResult:
    """`best` is the confirmed step of the highest rate that passed, `next` that of the lowest above
    it that failed; either may be missing."""

    best: Step | None
    next: Step | None
    steps: tuple[Step, ...]

    def document(self, goal: Goal) -> dict[str, Any]:
        """As it stands in reports."""
        return {
            "p99_limit_ms": goal.p99 * 1e3,
            "error_rate_limit": goal.error_rate,
            "best": asdict(self.best) if self.best else None,
            "next": asdict(self.next) if self.next else None,
            "steps": [asdict(step) for step in self.steps],
        }


def judge(phase: Phase, goal: Goal) -> Step:
    """Whether a phase of an open loop meets the goal."""
    records = phase.measured
    answered = records[records["status"] == OK]
    if not len(records):
        # It says nothing about the server, so that the step is measured again for longer.
        return Step(phase.rate, False, 0.0, 0.0, 0.0, 0.0, 0.0, False, "no request was due")
    error_rate = 1 - len(answered) / len(records)
    if not len(answered):
        return Step(phase.rate, False, 0.0, 0.0, 0.0, error_rate, 1.0, False, "nothing answered")
    p99 = latency.percentiles(latency.histogram(answered["latency"]), (99.0,))[99.0]
    samples = latency.resampled(answered["due"], answered["latency"], (99.0,))[:, 0]
    low, high = latency.interval(samples)
    late = lateness_of(phase)["p99"] / 1e3
    reasons = []
    if p99 > goal.p99:
        reasons.append(f"p99 {p99 * 1e3:.1f} ms")
    if error_rate > goal.error_rate:
        reasons.append(f"errors {error_rate:.2%}")
    generator = late > goal.max_lateness
    if generator:
        reasons.append(f"generator late by {late * 1e3:.1f} ms")
    kept = float(np.mean(samples <= goal.p99))
    confidence = kept if p99 <= goal.p99 else 1 - kept
    if error_rate > goal.error_rate or generator:
        confidence = 1.0
    return Step(
        rate=phase.rate,
        passed=not reasons,
        p99_ms=p99 * 1e3,
        low_ms=low * 1e3,
        high_ms=high * 1e3,
        error_rate=error_rate,
        confidence=confidence,
        generator=generator,
        reason=", ".join(reasons),
    )


class RateSearch:
    """`measure` plays a rate, for so many times the usual duration, and judges it; None: somebody
    wants to end. `highest` is a rate that is not passed, 0: no limit."""

    def __init__(
        self, measure: Callable[[float, int], Step | None], goal: Goal, highest: float = 0.0
    ) -> None:
        self._measure = measure
        self._goal = goal
        self._highest = highest or math.inf
        self._steps: list[Step] = []
        self._best: Step | None = None
        self._next: Step | None = None

    def run(self, first: float) -> SearchResult:
        """Searches from the rate `first` on."""
        if self._bracket(first) and self._bisect():
            self._confirm()
        return SearchResult(self._best, self._next, tuple(self._steps))

    def _bracket(self, first: float) -> bool:
        """Doubles or halves the rate until one passes and one fails; False: no use to go on."""
        rate = min(first, self._highest)
        while self._best is None or self._next is None:
            if self._try(rate) is None or (self._best is None and rate <= _LOWEST_RATE):
                return False
            if self._best is not None and self._best.rate >= self._highest:
                return True
            rate = rate / 2 if self._next is not None else min(rate * 2, self._highest)
            rate = max(rate, _LOWEST_RATE)
        return True

    def _bisect(self) -> bool:
        while self._best is not None and self._next is not None:
            low, high = self._best.rate, self._next.rate
            if high / low <= 1 + self._goal.precision:
                break
            if self._try(math.sqrt(low * high)) is None:
                return False
        return True

    def _try(self, rate: float) -> Step | None:
        """Measures a rate and keeps the outcome."""
        step = self._settled(rate, 1)
        if step is None:
            return None
        if step.passed:
            self._best = step
        else:
            self._next = step
        return step

    def _settled(self, rate: float, times: int) -> Step | None:
        """A measurement, or a longer one where the first leaves doubt: its p99 is too near to the
        limit, or the generator was late, which may have been something else on its machine."""
        step = self._measure(rate, times)
        if step is not None and (step.generator or (times == 1 and step.confidence < _SURE)):
            self._steps.append(step)
            step = self._measure(rate, 2)
        if step is not None:
            self._steps.append(step)
        return step

    def _confirm(self) -> None:
        """The best of several measurements was also the luckiest: it is measured once more, and
        where it fails then, the next lower one that had passed."""
        while self._best is not None:
            step = self._settled(self._best.rate, 2)
            if step is None:
                return
            if step.passed:
                self._best = step
                return
            self._next = step
            lower = step.rate / (1 + self._goal.precision)
            passed = [s for s in self._steps if s.passed and s.rate <= lower]
            self._best = max(passed, key=lambda s: s.rate) if passed else None
