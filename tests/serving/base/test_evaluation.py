"""Accuracy, agreement and their intervals, against published examples and other libraries."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics
from torchmetrics.classification import MulticlassJaccardIndex, MulticlassSpecificity

from serving.base.evaluation import (
    accuracy,
    accuracy_drop,
    agreement,
    answer_distance,
    class_iou,
    class_reports,
    confusion_matrix,
    counted_curve,
    detection_curve,
    foreground_iou,
    foreground_iou_drop,
    identification,
    in_top_k,
    mean_iou,
    mean_iou_drop,
    output_distance,
    overlaps,
    verification,
)
from serving.base.tensor import Array


def hits(right: int, of: int) -> NDArray[np.bool_]:
    return np.arange(of) < right


def paired(both: int, first: int, second: int, neither: int) -> list[NDArray[np.bool_]]:
    """Reference and candidate of which so many were right together, alone, or not at all."""
    counts = [both, first, second, neither]
    return [np.repeat(right, counts) for right in ([True, True, False, False], [True, False] * 2)]


def random_masks(seed: int, images: int, classes: int) -> tuple[Array, Array]:
    """True masks [N, 8, 8] and predictions that are right for about 60 % of the pixels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (images, 8, 8))
    guess = rng.integers(0, classes, (images, 8, 8))
    return truth, np.where(rng.random(truth.shape) < 0.6, truth, guess)


def confusions(truth: Array, predicted: Array, classes: int) -> NDArray[np.int64]:
    return np.stack(
        [confusion_matrix(t, p, classes) for t, p in zip(truth, predicted, strict=True)]
    )


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


def test_confusion_has_truth_in_rows_and_predictions_in_columns() -> None:
    found = confusion_matrix(np.array([0, 0, 1]), np.array([2, 0, 1]), 3)
    assert found.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_confusion_equals_scikit_learns(dtype: type[np.integer]) -> None:
    truth, predicted = random_masks(1, 4, 200)
    found = confusion_matrix(truth.astype(dtype), predicted.astype(dtype), 200)
    expected = metrics.confusion_matrix(truth.ravel(), predicted.ravel(), labels=range(200))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("ignored", [-1, 255])
def test_ignored_pixels_are_not_counted(ignored: int) -> None:
    truth = np.array([[0, ignored], [1, ignored]])
    found = confusion_matrix(truth, np.array([[0, 1], [0, 0]]), 2, ignore_index=ignored)
    assert found.tolist() == [[1, 0], [1, 0]]


def test_class_reports_equal_scikit_learns() -> None:
    truth, predicted = random_masks(2, 3, 7)
    # Class 7 was never predicted, class 8 never true, class 9 neither.
    truth[0, 0], predicted[0, 0] = 7, 8
    expected = metrics.precision_recall_fscore_support(
        truth.ravel(), predicted.ravel(), labels=range(10), zero_division=0
    )
    reports = class_reports(confusion_matrix(truth, predicted, 10))
    found = [(r.precision, r.recall, r.f1, r.support) for r in reports]
    assert np.allclose(found, np.stack(expected, axis=1))
    assert found[9] == (0, 0, 0, 0)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_specificity_and_f_beta_equal_other_libraries(beta: float) -> None:
    rng = np.random.default_rng(3)
    truth, guess = rng.integers(0, 5, (2, 400))
    reports = class_reports(confusion_matrix(truth, guess, 5), beta)
    expected = metrics.fbeta_score(truth, guess, beta=beta, average=None)
    assert [r.f_beta for r in reports] == pytest.approx(expected)
    specificity = MulticlassSpecificity(5, average=None)(torch.tensor(guess), torch.tensor(truth))
    assert [r.specificity for r in reports] == pytest.approx(specificity.tolist())


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


def test_iou_by_hand() -> None:
    # Class 0: 3 hits, union 3 + 1; class 1: 2 hits, union 2 + 1; class 2 is nowhere.
    found = class_iou(np.array([[3, 0, 0], [1, 2, 0], [0, 0, 0]]))
    assert found[:2].tolist() == [3 / 4, 2 / 3]
    assert math.isnan(found[2])


def test_iou_of_a_class_that_was_only_predicted_is_zero() -> None:
    assert class_iou(np.array([[3, 1], [0, 0]])).tolist() == [3 / 4, 0]


def test_iou_equals_scikit_learns_jaccard_score_for_each_matrix() -> None:
    truth, predicted = random_masks(3, 5, 4)
    found = class_iou(confusions(truth, predicted, 4))
    assert found.shape == (5, 4)
    for index in range(5):
        expected = metrics.jaccard_score(
            truth[index].ravel(), predicted[index].ravel(), average=None
        )
        assert np.allclose(found[index], expected)


def test_mean_iou_pools_all_images_as_torchmetrics_does() -> None:
    truth, predicted = random_masks(4, 12, 5)
    reference = MulticlassJaccardIndex(num_classes=5, average="macro")
    expected = reference(torch.from_numpy(predicted), torch.from_numpy(truth))
    found = mean_iou(overlaps(confusions(truth, predicted, 5)))
    assert found.value == pytest.approx(float(expected), abs=1e-6)
    assert found.n == 12


def test_mean_iou_leaves_out_classes_that_are_nowhere() -> None:
    confusion = np.array([[[3, 0, 0], [1, 2, 0], [0, 0, 0]]])
    assert mean_iou(overlaps(confusion)).value == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_interval_of_one_image_is_its_value() -> None:
    found = mean_iou(overlaps(np.array([[[5, 1], [2, 8]]])))
    assert found.low == found.value == found.high == pytest.approx((5 / 8 + 8 / 11) / 2)


def test_bootstrap_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    # Binary images whose share of right pixels varies: the pooled IoU of both classes is r/(2-r).
    rng = np.random.default_rng(5)
    shares, inside = rng.uniform(0.4, 1.0, (200, 40)), 0
    truth_of_the_population = 0.7 / 1.3
    for of_images in shares:
        right = np.round(of_images * 5000).astype(np.int64)
        matrices = np.zeros((40, 2, 2), np.int64)
        matrices[:, 0, 0] = matrices[:, 1, 1] = right
        matrices[:, 0, 1] = matrices[:, 1, 0] = 5000 - right
        found = mean_iou(overlaps(matrices))
        inside += found.low <= truth_of_the_population <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_bootstrap_is_the_same_every_time() -> None:
    matrices = overlaps(confusions(*random_masks(6, 9, 3), 3))
    found = mean_iou(matrices)
    assert found == mean_iou(matrices)
    assert found.low < found.value < found.high


def test_images_of_ignored_pixels_only_leave_the_interval_finite() -> None:
    matrices = np.zeros((3, 2, 2), np.int64)
    matrices[0], matrices[1] = [[4, 1], [1, 4]], [[3, 2], [2, 3]]
    matrices = overlaps(matrices)
    assert mean_iou(matrices) == mean_iou(matrices[:2])
    drop = mean_iou_drop(matrices, matrices)
    assert (drop.value, drop.low, drop.high, drop.n) == (0, 0, 0, 2)


def test_mean_iou_without_a_single_pixel_says_nothing() -> None:
    found = mean_iou(np.zeros((2, 3, 3), np.int64))
    assert (found.value, found.low, found.high, found.n) == (0, 0, 1, 0)
    drop = mean_iou_drop(np.zeros((0, 3, 3), np.int64), np.zeros((0, 3, 3), np.int64))
    assert (drop.value, drop.low, drop.high, drop.n) == (0, -1, 1, 0)


def test_mean_iou_drop_is_the_difference_and_draws_the_same_images_for_both() -> None:
    truth, predicted = random_masks(7, 20, 3)
    reference = overlaps(confusions(truth, truth, 3))
    candidate = overlaps(confusions(truth, predicted, 3))
    drop = mean_iou_drop(reference, candidate)
    assert drop.value == pytest.approx(1 - mean_iou(candidate).value)
    assert drop.low < drop.value < drop.high
    # Draws of different images for the two would spread even where the two are equal.
    same = mean_iou_drop(candidate, candidate)
    assert (same.low, same.high) == (0, 0)


def test_agreement_is_the_share_of_equal_elements() -> None:
    assert agreement(np.array([[1, 2], [3, 4]]), np.array([[1, 0], [3, 0]])) == 0.5
    assert agreement(np.array([], int), np.array([], int)) == 1.0


def test_distance_of_numbers_is_relative_to_the_reference() -> None:
    reference = np.array([[3, 4]], np.float32)
    assert answer_distance(reference, reference) == 0
    assert answer_distance(reference, reference + np.float32([0.3, -0.4])) == pytest.approx(0.1)
    assert answer_distance(1000 * reference, 1001 * reference) == pytest.approx(1e-3)


def test_distance_of_half_precision_does_not_overflow() -> None:
    reference = np.full(100, 60000, np.float16)
    assert answer_distance(reference, -reference) == pytest.approx(2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_])
def test_distance_of_class_maps_is_the_share_that_differs(dtype: type[np.generic]) -> None:
    reference = np.array([[0, 1], [1, 0]]).astype(dtype)
    candidate = np.array([[0, 1], [1, 1]]).astype(dtype)
    assert answer_distance(reference, candidate) == 0.25


def test_distance_to_another_shape_is_infinite() -> None:
    assert answer_distance(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)) == math.inf


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_distance_to_a_broken_answer_is_infinite(broken: float) -> None:
    reference = np.array([1, 2], np.float32)
    assert answer_distance(reference, np.array([1, broken], np.float32)) == math.inf


def test_distance_from_a_reference_of_zeros_is_large_not_undefined() -> None:
    zeros = np.zeros(4, np.float32)
    assert answer_distance(zeros, zeros) == 0
    assert 1e6 < answer_distance(zeros, zeros + 1) < math.inf


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


def test_foreground_iou_is_that_of_class_1_of_all_images() -> None:
    truth, predicted = random_masks(9, 12, 2)
    counts = overlaps(confusions(truth, predicted, 2))
    found = foreground_iou(counts)
    expected = metrics.jaccard_score(truth.ravel(), predicted.ravel())
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    same = foreground_iou_drop(counts, counts)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_nothing_to_find_and_nothing_found_is_right() -> None:
    found = foreground_iou(overlaps(np.array([[[9, 0], [0, 0]]])))
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_distance_of_probability_maps_is_by_amount() -> None:
    reference = np.full((1, 4, 4), 200, np.uint8)
    assert output_distance("probability", reference, reference + np.uint8(2)) == pytest.approx(0.01)
    assert output_distance("mask", reference, reference + np.uint8(2)) == 1
    nothing = np.zeros((1, 4, 4), np.uint8)
    assert output_distance("probability", nothing, nothing) == 0
    assert output_distance("probability", nothing, nothing + np.uint8(1)) == 1
    assert output_distance("probability", reference, nothing) == 1
    assert output_distance("probability", reference, nothing[:, :2]) == math.inf
