"""When a phase reads the server's counters."""

from typing import Any, cast

import pytest

from loadtest.generator.arrivals import Arrivals
from loadtest.generator.fleet import Fleet, Interrupt, Played
from loadtest.measurement.phase_runner import PhaseRunner, PhaseTerms
from loadtest.measurement.server_counters import Observed, Observer


class Log:
    """Stands for the fleet, the view and the observer, and notes their order. The fleet plays all
    before its first tick, as a run of a few calls does."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def play(self, *_: Any, watch: Any, **__: Any) -> Played:
        self.steps.append("play")
        watch(10.0, [])
        return Played([], 0.0, None, 1.0, 0.0, False)

    def look(self) -> Observed:
        self.steps.append("look")
        return Observed(float(len(self.steps)))

    def begin(self, *_: Any) -> None:
        """Shows nothing."""

    tick = end = begin


@pytest.mark.parametrize(
    ("warmup", "order"), [(0.0, ["look", "play", "look"]), (1.0, ["play", "look", "look"])]
)
def test_counters_are_read_before_the_first_measured_call(warmup: float, order: list[str]) -> None:
    log = Log()
    terms = PhaseTerms(warmup=warmup, seconds=10, workers=1, seed=0, max_in_flight=1, requests=20)
    runner = PhaseRunner(cast("Fleet", log), terms, log, Interrupt())
    runner.run("a", "b", Arrivals("closed", concurrency=1), cast("Observer", log))
    assert log.steps == order
