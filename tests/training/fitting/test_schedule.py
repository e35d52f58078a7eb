"""Learning rates over time."""

import pytest

from training.fitting.schedule import rate_factor
from training.recipes.optimizer import Constant, Cosine, MultiStep, OneCycle, Poly, Schedule, Step


def factor(schedule: Schedule, step: int) -> float:
    """In the middle of ten epochs of ten steps."""
    return rate_factor(schedule, step, 100, 10)


def test_one_cycle_rises_to_the_rate_and_falls_to_nearly_nothing() -> None:
    factors = [factor(OneCycle(name="one_cycle", warmup=0.25), step) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 25)
    assert max(factors) == factors[25] == pytest.approx(1.0)
    assert factors[100] < 1e-5


def test_cosine_warms_up_by_epochs() -> None:
    schedule = Cosine(name="cosine", warmup_epochs=2)
    assert factor(schedule, 9) == pytest.approx(0.5)
    assert factor(schedule, 60) == pytest.approx(0.5)
    assert factor(schedule, 100) == pytest.approx(0.0)


def test_constant_stays() -> None:
    assert {factor(Constant(), step) for step in range(100)} == {1.0}


def test_step_falls_after_every_so_many_epochs() -> None:
    schedule = Step(name="step", step_size=3, gamma=0.1)
    values = [factor(schedule, step) for step in (0, 29, 30, 59, 60, 99)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001])


def test_multi_step_falls_at_its_milestones() -> None:
    schedule = MultiStep(name="multi_step", milestones=(4, 5), gamma=0.5, warmup_epochs=1)
    values = [factor(schedule, step) for step in (0, 9, 10, 39, 40, 49, 50, 99)]
    assert values == pytest.approx([0.1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25])


def test_poly_falls_to_nothing() -> None:
    schedule = Poly(name="poly", power=2.0, warmup_epochs=2)
    values = [factor(schedule, step) for step in (20, 60, 100)]
    assert values == pytest.approx([1, 0.25, 0])
