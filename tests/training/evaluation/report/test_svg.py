"""Plots: axes, gaps, and labels that do not meet."""

import math
import re

import pytest

from training.evaluation.report.axes import linear, logarithmic
from training.evaluation.report.svg import Band, Bars, Dot, Line, Plot, strip


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 10.0], ["0", "5", "10"]),
        ([0.96, 0.98], ["0.960", "0.965", "0.970", "0.975", "0.980"]),
        ([5.0], ["4.8", "4.9", "5.0", "5.1", "5.2"]),
        ([], ["0.0", "0.5", "1.0"]),
        ([0.0, 0.0], ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        ([1e6, 3e6], ["1,000,000", "1,500,000", "2,000,000", "2,500,000", "3,000,000"]),
    ],
)
def test_axis_has_a_few_round_labels(values: list[float], labels: list[str]) -> None:
    axis = linear("x", values)
    assert [label for _, label in axis.ticks] == labels
    assert all(0 <= axis.share(place) <= 1 for place, _ in axis.ticks)


def test_axis_of_whole_numbers_has_no_halves() -> None:
    assert [label for _, label in linear("epoch", [1.0, 3.0], whole=True).ticks] == ["1", "2", "3"]


@pytest.mark.parametrize("values", [[0.11, 0.4], [0.5, 0.51], [1e-4, 1.0], [3.0], [], [0.0, 2.0]])
def test_logarithmic_axis_has_labels_inside(values: list[float]) -> None:
    axis = logarithmic("x", values)
    assert 1 <= len(axis.ticks) <= 6
    for place, _ in axis.ticks:
        assert 0 <= axis.share(place) <= 1
    assert axis.share(math.sqrt(axis.low * axis.high)) == pytest.approx(0.5)


def drawn(*layers: Line | Band | Bars, dots: tuple[Dot, ...] = ()) -> str:
    x, y = (linear("x", [], low=0.0, high=10.0) for _ in range(2))
    return str(Plot("a & b", x, y, layers, dots).__html__())


def test_line_has_gaps_where_nothing_was_measured() -> None:
    html = drawn(Line([(0, 1), (1, 2), (2, None), (3, 3), (4, 4)], 0))
    assert len(re.findall("<polyline", html)) == 2
    assert 'points="0.0,900.0 100.0,800.0"' in html


def test_step_keeps_its_value_to_the_next_point() -> None:
    html = drawn(Line([(0, 1), (5, 3)], 0, step=True))
    assert 'points="0.0,900.0 500.0,900.0 500.0,700.0"' in html


def test_single_point_of_a_line_is_seen() -> None:
    html = drawn(Line([(1, 2)], 0))
    assert 'class="line c0 single" points="100.0,800.0 100.0,800.0"' in html
    assert "single" not in drawn(Line([(1, 2), (2, 3)], 0))


def test_strip_marks_each_value_and_their_mean() -> None:
    html = str(strip([0.5, 0.7], (0.5, 0.9)))
    assert re.findall(r'cx="([\d.]+)%"', html) == ["4.00", "50.00"]
    assert 'class="mean" x1="27.00%"' in html
    assert 'aria-label="50.00 %, 70.00 %"' in html
    assert "nan" not in str(strip([0.5], (0.5, 0.5)))


def test_values_beyond_the_axis_lie_at_its_end() -> None:
    assert 'points="1000.0,0.0 1000.0,1000.0"' in drawn(Line([(50, 50), (50, -50)], 0))


def test_bars_leave_out_the_empty_ones() -> None:
    html = drawn(Bars([1.0, None, 0.0, 4.0], 0))
    assert html.count('class="bar') == 2


def test_labels_do_not_meet_and_none_is_lost_where_there_is_room() -> None:
    close = tuple(Dot(5 + 0.01 * n, 5, 0, label=str(n)) for n in range(4))
    html = drawn(dots=close)
    places = re.findall(r'class="label"><text x="(-?\d+)" y="(-?\d+)"', html)
    assert len(places) == len(set(places)) == 4
    crowd = tuple(Dot(5, 5, 0, label=str(n)) for n in range(40))
    assert 0 < drawn(dots=crowd).count('class="label"') < 40


def test_texts_are_escaped() -> None:
    html = drawn(Line([(0, 1)], 0, "<b>one"), Line([(0, 1)], 1, "two"))
    assert "&lt;b&gt;one" in html
    assert 'aria-label="a &amp; b"' in html
