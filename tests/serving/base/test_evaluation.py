"""Accuracy, curves, verification and their intervals, by published examples and other libraries."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from serving.base.evaluation import (
    accuracy,
    accuracy_drop,
    counted_curve,
    detection_curve,
    identification,
    in_top_k,
    verification,
)


def hits(right: int, of: int) -> NDArray[np.bool_]:
    return np.arange(of) < right


def paired(both: int, first: int, second: int, neither: int) -> list[NDArray[np.bool_]]:
    """Reference and candidate of which so many were right together, alone, or not at all."""
    counts = [both, first, second, neither]
    return [np.repeat(right, counts) for right in ([True, True, False, False], [True, False] * 2)]


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_accuracy_interval_is_that_of_newcombes_examples(
    right: int, of: int, low: float, high: float
) -> None:
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3."""
    found = accuracy(hits(right, of))
    assert found.value == pytest.approx(right / of)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert found.n == of


@pytest.mark.parametrize(("right", "of"), [(0, 1), (1, 1), (7, 10), (360, 360), (499, 1000)])
def test_accuracy_interval_equals_scipys(right: int, of: int) -> None:
    expected = stats.binomtest(right, of).proportion_ci(method="wilson")
    found = accuracy(hits(right, of))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-7)


def test_accuracy_of_nothing_says_nothing() -> None:
    found = accuracy(hits(0, 0))
    assert (found.value, found.low, found.high, found.n) == (0, 0, 1, 0)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        # Fagerland, Lydersen and Laake (2014), airway hyper-responsiveness: to three digits.
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_drop_interval_is_that_of_published_examples(
    cells: tuple[int, int, int, int], low: float, high: float
) -> None:
    found = accuracy_drop(*paired(*cells))
    assert found.low == pytest.approx(low, abs=5e-4)
    assert found.high == pytest.approx(high, abs=5e-4)
    assert found.n == sum(cells)


def newcombe(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Method 10 as Altman et al. (2000), Statistics with Confidence, p. 52, write it down."""
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    one = stats.binomtest(a + b, n).proportion_ci(method="wilson")
    two = stats.binomtest(a + c, n).proportion_ci(method="wilson")
    product, cross = (a + b) * (c + d) * (a + c) * (b + d), a * d - b * c
    if cross > n / 2:
        cross -= n / 2
    elif cross >= 0:
        cross = 0
    phi = cross / math.sqrt(product) if product else 0.0
    down, up = (p1 - one.low, two.high - p2), (p2 - two.low, one.high - p1)
    low, high = (math.sqrt(x * x - 2 * phi * x * y + y * y) for x, y in (down, up))
    return p1 - p2 - low, p1 - p2 + high


@pytest.mark.parametrize(
    "cells",
    [
        (14, 5, 0, 22), (350, 2, 1, 7), (12, 9, 2, 21), (2, 10, 9, 1), (5, 0, 0, 5), (0, 6, 3, 0),
        (360, 0, 0, 0), (0, 4, 0, 0), (3, 3, 3, 3), (900, 40, 10, 50),
    ],
)  # fmt: skip
def test_drop_interval_follows_the_textbook(cells: tuple[int, int, int, int]) -> None:
    found = accuracy_drop(*paired(*cells))
    assert found.value == pytest.approx((cells[1] - cells[2]) / sum(cells))
    assert (found.low, found.high) == pytest.approx(newcombe(*cells), abs=1e-6)


def test_drop_has_an_interval_where_the_two_never_differ() -> None:
    found = accuracy_drop(hits(360, 360), hits(360, 360))
    assert found.value == 0
    assert found.low < 0 < found.high
    assert found.high < 0.02


def test_drop_changes_sign_when_the_two_change_places() -> None:
    first, second = paired(80, 9, 3, 8)
    forth, back = accuracy_drop(first, second), accuracy_drop(second, first)
    assert forth.value == pytest.approx(0.06)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))


def test_drop_is_the_share_of_images_to_the_last_bit() -> None:
    for right in range(300, 2501, 7):
        assert accuracy_drop(hits(right, 2500), hits(right - 25, 2500)).value == 0.01


def test_drop_of_nothing_says_nothing() -> None:
    found = accuracy_drop(hits(0, 0), hits(0, 0))
    assert (found.low, found.high, found.n) == (-1, 1, 0)


def test_label_among_the_best_k_counts() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], np.float32)
    labels = np.array([2, 2, 2])
    assert in_top_k(scores, labels, 1).tolist() == [False, False, True]
    assert in_top_k(scores, labels, 2).tolist() == [True, False, True]
    assert in_top_k(scores, labels, 9).tolist() == [True, True, True]


def test_top_k_equals_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((200, 10), np.float32)
    labels = rng.integers(0, 10, 200)
    for k in (1, 3, 5):
        expected = metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(10))
        assert in_top_k(scores, labels, k).mean() == pytest.approx(expected)


@pytest.mark.parametrize("levels", [5, 100_000])
def test_curves_and_their_areas_equal_scikit_learns(levels: int) -> None:
    rng = np.random.default_rng(4)
    positive = rng.random(500) < 0.3
    scores = np.round((rng.random(500) + 0.4 * positive) * levels) / levels
    curve = detection_curve(scores, positive)
    assert curve.auc == pytest.approx(metrics.roc_auc_score(positive, scores))
    assert curve.average_precision == pytest.approx(
        metrics.average_precision_score(positive, scores)
    )
    fpr, tpr, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
    assert curve.false_positive_rate == pytest.approx(fpr[1:])
    assert curve.recall == pytest.approx(tpr[1:])
    precision, recall, _ = metrics.precision_recall_curve(positive, scores)
    assert curve.precision == pytest.approx(precision[-2::-1])
    assert curve.recall == pytest.approx(recall[-2::-1])


def test_curve_needs_positives_and_negatives() -> None:
    with pytest.raises(ValueError, match="got 3 positive of 3"):
        detection_curve(np.arange(3.0), np.ones(3, dtype=np.bool_))


def unit(angles: list[float]) -> NDArray[np.float32]:
    """Points on the unit circle, by their angle in degrees."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_verification_of_people_far_apart_is_perfect() -> None:
    found = verification(unit([0, 5, 90, 95]), np.array([0, 0, 1, 1]))
    assert (found.genuine_pairs, found.impostor_pairs) == (2, 4)
    assert found.tar_at_far[0.01].value == 1.0
    assert found.eer == 0.0


def test_tar_counts_genuine_pairs_above_the_impostors() -> None:
    # Genuine pairs at 5 and 78 degrees; the nearest impostors are 7 degrees apart.
    found = verification(unit([0, 5, 90, 12]), np.array([0, 0, 1, 1]))
    assert found.tar_at_far[0.01].value == 0.5


def test_eer_agrees_with_the_roc_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(12), 6)
    points = rng.normal(size=(12, 8))[identities] + rng.normal(0, 0.9, (72, 8))
    embeddings = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    upper = np.triu_indices(72, 1)
    false, true, _ = metrics.roc_curve(
        (identities[:, None] == identities)[upper], (embeddings @ embeddings.T)[upper]
    )
    expected = false[np.argmin(np.abs(1 - true - false))]
    assert verification(embeddings, identities).eer == pytest.approx(expected, abs=0.01)


def test_identification_ranks_the_gallery_of_first_images() -> None:
    # The probe of person 1, at 40 degrees, lies nearer to person 0's first image than to its own.
    found = identification(unit([0, 3, 90, 40, 180, 175]), np.array([0, 0, 1, 1, 2, 2]), (1, 2))
    assert (found[1].value, found[1].n) == (pytest.approx(2 / 3), 3)
    assert found[2].value == 1.0


@pytest.mark.parametrize("identities", [[0, 0], [0, 1]])
def test_verification_needs_both_kinds_of_pairs(identities: list[int]) -> None:
    with pytest.raises(ValueError, match="two identities"):
        verification(unit([0, 90]), np.array(identities))


def test_counted_curve_has_scikit_learns_areas() -> None:
    rng = np.random.default_rng(2)
    positive = rng.random(5000) < 0.2
    # Few distinct scores, so that most are ties.
    scores = np.clip(rng.normal(100 + 40 * positive, 30), 0, 255).astype(np.uint8) // 8 * 8
    levels = np.stack([np.bincount(scores[positive == side], minlength=256) for side in (0, 1)])
    curve = counted_curve(levels)
    assert curve.auc == pytest.approx(metrics.roc_auc_score(positive, scores))
    expected = metrics.average_precision_score(positive, scores)
    assert curve.average_precision == pytest.approx(expected)
    same = detection_curve(scores.astype(np.float32), positive)
    assert np.array_equal(curve.precision, same.precision)
    with pytest.raises(ValueError, match="expected positives and negatives, got 0 positive of 3"):
        counted_curve(np.array([[1, 2], [0, 0]]))
