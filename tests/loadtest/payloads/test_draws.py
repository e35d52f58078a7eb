import itertools
from collections import Counter

import numpy as np
import pytest

from loadtest.cli.options import duration
from loadtest.payloads.draws import ALWAYS_ZERO, Distribution, draws, parse_distribution


def test_models_are_drawn_by_weight_and_each_payload_once_a_round() -> None:
    drawn = draws([(10, 3.0), (5, 1.0)], ALWAYS_ZERO, ALWAYS_ZERO, (0,))
    indices = [index for index, _, _ in itertools.islice(drawn, 8000)]
    first = [i for i in indices if i < 10]
    assert len(first) / len(indices) == pytest.approx(0.75, abs=0.02)
    for start in range(0, 500, 10):
        assert sorted(first[start : start + 10]) == list(range(10))


def test_workers_draw_differently_and_repeatably() -> None:
    def indices(worker: int) -> list[int]:
        drawn = draws([(100, 1.0)], ALWAYS_ZERO, ALWAYS_ZERO, (5, worker))
        return [index for index, _, _ in itertools.islice(drawn, 50)]

    assert indices(0) == indices(0)
    assert indices(0) != indices(1)


def test_deadlines_and_priorities_follow_their_distributions() -> None:
    deadlines = parse_distribution("50ms=3,1s=1", duration)
    priorities = Distribution((1.0, 2.0), (1.0, 1.0))
    drawn = list(itertools.islice(draws([(1, 1.0)], deadlines, priorities, (0,)), 4000))
    counts = Counter(deadline for _, deadline, _ in drawn)
    assert set(counts) == {0.05, 1.0}
    assert counts[0.05] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {priority for _, _, priority in drawn} == {1, 2}
    between = parse_distribution("20ms..100ms", duration)
    drawn_between = between.draw(np.random.default_rng(0), 1000)
    assert 0.02 <= drawn_between.min() < 0.03
    assert 0.09 < drawn_between.max() <= 0.1


@pytest.mark.parametrize("text", ["", "x", "1s..2ms", "1s=-1", "1s=0", "ms"])
def test_wrong_distributions_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its caller words the message
        parse_distribution(text, duration)
