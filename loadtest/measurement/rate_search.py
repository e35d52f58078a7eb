"""Searches the highest rate that keeps a p99: bracketing, then bisection."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from loadtest.report import latency
from loadtest.report.summary import lateness_of
from loadtest.results import OK, Phase

# Confidence that p99 is on one side of the limit. With less, a step is measured again for longer: a
# larger value measures more steps twice, a smaller one believes more chance results.
_SURE = 0.95
# Requests/s below which the search gives up.
_LOWEST_RATE = 0.5


@dataclass(frozen=True)
class Goal:
    """Limits that a rate must keep.

    p99: seconds.
    error_rate: share of the requests.
    precision: share of the rate to which the search goes on.
    max_lateness: p99 of the generator's own lateness, in seconds.
    """

    p99: float
    error_rate: float
    precision: float
    max_lateness: float


@dataclass(frozen=True)
class Step:
    """The judgement of one rate.

    low_ms, high_ms: interval of p99.
    confidence: share of resampled runs whose p99 is on the same side of the limit.
    generator: whether the generator, not the server, is the limit.
    reason: the limits that were not kept.
    """

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
    """The outcome of a search.

    best: confirmed step of the highest rate that passed; None where none did.
    next: step of the lowest rate above it that failed; None where none was tried.
    steps: all steps in their order.
    """

    best: Step | None
    next: Step | None
    steps: tuple[Step, ...]

    def document(self, goal: Goal) -> dict[str, Any]:
        """The outcome as reports have it."""
        return {
            "p99_limit_ms": goal.p99 * 1e3,
            "error_rate_limit": goal.error_rate,
            "best": asdict(self.best) if self.best else None,
            "next": asdict(self.next) if self.next else None,
            "steps": [asdict(step) for step in self.steps],
        }


def judge(phase: Phase, goal: Goal) -> Step:
    """Judges a phase of an open loop by the goal."""
    records = phase.measured
    answered = records[records["status"] == OK]
    if not len(records):
        # No confidence, so that the step is measured again for longer.
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
    """Searches the highest rate that meets a goal.

    measure: plays a rate for a multiple of the usual duration and judges it; None ends the search.
    highest: rate that is not exceeded; 0 is no limit.
    """

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
        """Searches, beginning with the rate `first`."""
        if self._bracket(first) and self._bisect():
            self._confirm()
        return SearchResult(self._best, self._next, tuple(self._steps))

    def _bracket(self, first: float) -> bool:
        """Doubles or halves the rate until one passes and one fails; False ends the search."""
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
        """Measures a rate and keeps its step as the best or the next."""
        step = self._settled(rate, 1)
        if step is None:
            return None
        if step.passed:
            self._best = step
        else:
            self._next = step
        return step

    def _settled(self, rate: float, times: int) -> Step | None:
        """Measures a rate, and again for longer where the first step leaves doubt: p99 is near the
        limit, or the generator was late, which may be due to another process."""
        step = self._measure(rate, times)
        if step is not None and (step.generator or (times == 1 and step.confidence < _SURE)):
            self._steps.append(step)
            step = self._measure(rate, 2)
        if step is not None:
            self._steps.append(step)
        return step

    def _confirm(self) -> None:
        """Measures the best rate again, as the best of several measurements is likely a lucky
        one. Where it fails, the next lower rate that had passed follows."""
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
