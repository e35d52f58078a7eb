"""Confusion of classes, measures of masks and their intervals, by hand and by other libraries."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics
from torchmetrics.classification import MulticlassJaccardIndex, MulticlassSpecificity

from serving.base.evaluation import (
    class_iou,
    class_reports,
    confusion_matrix,
    foreground_iou,
    foreground_iou_drop,
    mean_iou,
    mean_iou_drop,
    overlaps,
)
from serving.base.tensor import Array


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
