import math
from dataclasses import replace

import numpy as np
import pytest

from loadtest.measurement.rate_search import Goal, RateSearch, Step, judge
from loadtest.report.comparison import compare, ratio
from loadtest.results import OK, Phase, pack_record, records_of

GOAL = Goal(p99=0.05, error_rate=0.01, precision=0.05, max_lateness=0.01)


def step(rate: float, passed: bool, confidence: float = 1.0) -> Step:
    return Step(rate, passed, 0, 0, 0, 0, confidence, False, "" if passed else "p99")


@pytest.mark.parametrize("capacity", [3.0, 97.0, 1000.0, 40_000.0])
@pytest.mark.parametrize("first", [1.0, 500.0, 100_000.0])
def test_search_finds_the_capacity(capacity: float, first: float) -> None:
    found = RateSearch(lambda rate, times: step(rate, rate <= capacity), GOAL).run(first)
    assert found.best is not None
    assert found.next is not None
    assert found.best.rate <= capacity < found.next.rate
    assert found.next.rate / found.best.rate <= 1.05
    assert len(found.steps) < 30


def test_search_ends_where_nothing_passes() -> None:
    found = RateSearch(lambda rate, times: step(rate, False), GOAL).run(100)
    assert found.best is None
    assert len(found.steps) < 12


def test_search_does_not_go_above_the_highest_rate() -> None:
    rates = []

    def measure(rate: float, times: int) -> Step:
        rates.append(rate)
        return step(rate, True)

    found = RateSearch(measure, GOAL, highest=300).run(100)
    assert found.best is not None
    assert found.best.rate == max(rates) == 300
    assert found.next is None


def test_a_doubtful_step_is_measured_again_for_longer() -> None:
    asked = []

    def measure(rate: float, times: int) -> Step:
        asked.append((rate, times))
        return step(rate, rate <= 100, 0.6 if times == 1 and rate == 100 else 1.0)

    RateSearch(measure, GOAL).run(100)
    assert asked[:2] == [(100, 1), (100, 2)]


def test_a_late_generator_gets_a_second_chance() -> None:
    late = replace(step(100, False), generator=True)
    answers = iter([late])
    found = RateSearch(lambda rate, times: next(answers, step(rate, rate <= 150)), GOAL).run(100)
    assert found.best is not None
    assert found.best.rate == pytest.approx(150, rel=0.05)


def test_what_is_not_confirmed_is_given_up() -> None:
    def measure(rate: float, times: int) -> Step:
        # Above 500 a short run passes by luck.
        return step(rate, rate <= (1000 if times == 1 else 500))

    found = RateSearch(measure, GOAL).run(100)
    assert found.best is not None
    assert found.best.rate <= 500


def test_search_ends_when_somebody_interrupts() -> None:
    steps = iter([step(100, True), step(200, True)])
    found = RateSearch(lambda rate, times: next(steps, None), GOAL).run(100)
    assert found.best is not None
    assert found.best.rate == 200


def phase(latencies: list[float], statuses: list[int] | None = None, late: float = 0.0) -> Phase:
    packed = [
        pack_record(i / 100, late, seconds, 0, status, 0, 0, 1, -1, 0, 0, 0, 0, 0)
        for i, (seconds, status) in enumerate(
            zip(latencies, statuses or [OK] * len(latencies), strict=True)
        )
    ]
    return Phase(
        label="x", url="", arrivals="poisson", rate=100, concurrency=0, started=0, begin=0,
        end=len(latencies) / 100, workers=1, records=records_of(packed),
    )  # fmt: skip


def test_a_step_is_judged_by_p99_errors_and_the_generator() -> None:
    fast = np.random.default_rng(0).exponential(0.002, 2000).tolist()
    assert judge(phase(fast), GOAL).passed
    assert judge(phase(fast), GOAL).confidence == 1.0
    assert not judge(phase([x * 20 for x in fast]), GOAL).passed
    failing = judge(phase(fast, [14] * 40 + [OK] * 1960), GOAL)
    assert not failing.passed
    assert failing.reason == "errors 2.00%"
    late = judge(phase(fast, late=0.02), GOAL)
    assert late.generator
    assert not late.passed
    assert judge(phase([0.1] * 10, [14] * 10), GOAL).reason == "nothing answered"


def test_a_ratio_has_the_interval_of_its_rounds() -> None:
    # Student's t for 3 degrees of freedom is 3.182.
    logs = [0.1, 0.2, 0.3, 0.2]
    found = ratio(logs)
    half = 3.182 * np.std(logs, ddof=1) / 2
    assert found["ratio"] == pytest.approx(math.exp(0.2))
    assert found["low"] == pytest.approx(math.exp(0.2 - half))
    assert found["high"] == pytest.approx(math.exp(0.2 + half))
    assert ratio([0.5])["low"] is None
    assert ratio([])["ratio"] is None


def test_what_drifts_over_time_does_not_touch_the_ratio() -> None:
    phases = [
        {
            "requests_per_second": 100.0 * drift * (2.0 if side else 1.0),
            "latency_ms": {"p50": {"value": 5.0 / drift}, "p99": {"value": 9.0 / drift}},
        }
        for drift in (1.0, 0.7, 0.4)
        for side in (0, 1)
    ]
    found = compare([*phases, phases[0]])
    assert found["rounds"] == 3
    assert found["requests_per_second"]["ratio"] == pytest.approx(2.0)
    assert found["requests_per_second"]["high"] == pytest.approx(2.0)
    assert found["p99"]["ratio"] == pytest.approx(1.0)


def test_a_step_without_a_request_says_nothing_and_is_measured_again() -> None:
    asked = []

    def measure(rate: float, times: int) -> Step:
        asked.append((rate, times))
        return judge(phase([]), GOAL) if len(asked) == 1 else step(rate, rate <= 100)

    found = RateSearch(measure, GOAL).run(50)
    assert asked[:2] == [(50, 1), (50, 2)]
    assert found.steps[0].reason == "no request was due"
    assert found.steps[0].error_rate == 0
    assert found.best is not None
