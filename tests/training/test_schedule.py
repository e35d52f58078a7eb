"""Learning rates over time."""

import pytest

from training.recipe.optimizer import Constant, Cosine, OneCycle
from training.schedule import rate_factor


def test_one_cycle_rises_to_the_rate_and_falls_to_nearly_nothing() -> None:
    factors = [rate_factor(OneCycle(name="one_cycle", warmup=0.25), s, 100, 10) for s in range(101)]
    assert factors[0] == pytest.approx(1 / 25)
    assert max(factors) == factors[25] == pytest.approx(1.0)
    assert factors[100] < 1e-5


def test_cosine_warms_up_by_epochs() -> None:
    schedule = Cosine(name="cosine", warmup_epochs=2)
    assert rate_factor(schedule, 9, 100, 10) == pytest.approx(0.5)
    assert rate_factor(schedule, 60, 100, 10) == pytest.approx(0.5)
    assert rate_factor(schedule, 100, 100, 10) == pytest.approx(0.0)
    assert rate_factor(Constant(), 50, 100, 10) == 1.0
