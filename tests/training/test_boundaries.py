"""ODS and OIS of boundaries, on drawings small enough to count by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.boundaries import boundary_scores, match


def line(column: int, size: int = 100) -> NDArray[np.bool_]:
    drawn = np.zeros((size, size), np.bool_)
    drawn[:, column] = True
    return drawn


def test_line_within_the_tolerance_is_right_and_one_beyond_is_not() -> None:
    # 0.0075 of the diagonal of 100 x 100 is 1.06 pixels.
    near = boundary_scores([line(51).astype(float)], [[line(50)]])
    far = boundary_scores([line(53).astype(float)], [[line(50)]])
    assert (near.ods, near.ois) == (1.0, 1.0)
    assert (far.ods, far.ois) == (0.0, 0.0)


def test_each_pixel_matches_one_only() -> None:
    thick = line(50) | line(51)
    matched, covered = match(thick, line(50), 1.1)
    assert matched.sum() == covered.sum() == 100
    scores = boundary_scores([thick.astype(float)], [[line(50)]])
    assert scores.ods == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_matching_finds_as_many_pairs_as_there_can_be() -> None:
    """Taking the nearest first would leave one of the two without a partner."""
    found, truth = np.zeros((2, 1, 9), np.bool_)
    found[0, [3, 5]] = True
    truth[0, [4, 6]] = True
    assert match(found, truth, 1.0)[0].sum() == 2


def test_image_threshold_beats_one_for_all() -> None:
    sure = 0.9 * line(20) + 0.6 * line(70)
    faint = 0.4 * line(20) + 0.1 * line(70)
    scores = boundary_scores([sure, faint], [[line(20)], [line(20)]])
    assert scores.ois == 1.0
    # One for all: both lines of the first image and one of the second, or half of what is there.
    assert scores.ods == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert 0.1 < scores.threshold <= 0.4


def test_precision_takes_any_drawing_and_recall_counts_all() -> None:
    scores = boundary_scores([line(20).astype(float)], [[line(20), line(70)]])
    assert scores.ods == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_sizes_that_differ_and_nothing_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="image 0: its map and its drawings differ"):
        boundary_scores([np.zeros((4, 4))], [[line(2)]])
    with pytest.raises(ValueError, match="at least one image"):
        boundary_scores([], [])
