"""ODS and OIS of boundaries, on drawings small enough to count by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.evaluation.boundary_benchmark import boundary_scores, match, outline


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


def square(top: int, size: int = 100) -> NDArray[np.bool_]:
    drawn = np.zeros((size, size), np.bool_)
    drawn[top : top + 40, 30:70] = True
    return drawn


def test_outline_is_what_touches_the_outside_but_not_the_images_border() -> None:
    region = np.zeros((5, 6), np.bool_)
    region[:4, :4] = True
    expected = np.zeros((5, 6), np.bool_)
    expected[3, :4] = expected[:4, 3] = True
    assert np.array_equal(outline(region), expected)
    assert not outline(np.ones((5, 6), np.bool_)).any()


def test_region_shifted_within_the_tolerance_is_right_and_one_beyond_is_not() -> None:
    def shifted(by: int) -> float:
        # Beyond the tolerance in both directions no pixel of one outline is near the other's.
        moved = np.roll(square(30), (by, by), axis=(0, 1))
        return boundary_scores([moved.astype(float)], [[square(30)]], regions=True).ods

    assert boundary_scores([square(31).astype(float)], [[square(30)]], regions=True).ods == 1.0
    # The two places where the outlines cross, and what lies within 1.06 pixels of them.
    assert shifted(8) < 0.1
    far = np.zeros((100, 100))
    far[2:8, 2:8] = 1
    assert boundary_scores([far], [[square(30)]], regions=True).ods == 0.0


def test_outlines_near_pixels_that_do_not_count_are_left_out() -> None:
    counted = np.ones((100, 100), np.bool_)
    counted[:, 60:] = False
    wider = square(30)
    wider[30:70, 70:90] = True
    [one, other] = (
        boundary_scores([wider.astype(float)], [[square(30)]], regions=True, counted=kept)
        for kept in (None, [counted])
    )
    assert one.ods < 0.9
    assert other.ods == 1.0


def test_only_the_level_decides_between_faint_and_sure_regions() -> None:
    faint = np.maximum(0.32 * square(2), 0.9 * square(50))
    scores = boundary_scores([faint], [[square(50)]], thresholds=19, regions=True)
    assert scores.ods == 1.0
    assert scores.threshold == pytest.approx(0.35)
