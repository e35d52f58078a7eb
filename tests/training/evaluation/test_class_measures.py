"""Ranking and calibration, against other libraries."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.classification import MulticlassCalibrationError

from serving.base.evaluation import confusion_matrix
from training.evaluation import class_measures
from training.evaluation.class_measures import (
    GRID,
    measures,
    rank_classes,
    rank_foreground,
    reliability,
)
from training.evaluation.rows_on_disk import RowsOnDisk


def answers(classes: int = 7, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, C] that are right more often than not, and labels [N]."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), labels


def on_disk(folder: Path, *parts: np.ndarray) -> RowsOnDisk:
    stored = RowsOnDisk(folder)
    for part in parts:
        stored.append(part)
    return stored


@pytest.mark.parametrize("held", [1 << 23, 700])
def test_areas_of_each_class_equal_scikit_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    # 700 values: two classes at a time.
    monkeypatch.setattr(class_measures, "_SCORES", held)
    probabilities, labels = answers()
    ranking = rank_classes(on_disk(tmp_path, *np.split(probabilities, [7, 99])), labels, 7)
    for index in range(7):
        positive = labels == index
        expected = metrics.average_precision_score(positive, probabilities[:, index])
        assert ranking.average_precision[index] == pytest.approx(expected)
        expected = metrics.roc_auc_score(positive, probabilities[:, index])
        assert ranking.auc[index] == pytest.approx(expected)
        # Recall's steps are at most 1/positives high, so that 101 points hold the area.
        assert np.trapezoid(ranking.recall[index], GRID) == pytest.approx(expected, abs=0.02)
        assert (np.diff(ranking.precision[index]) <= 0).all()


def test_class_without_images_has_no_ranking(tmp_path: Path) -> None:
    probabilities, labels = answers()
    labels = np.where(labels == 3, 0, labels)
    predicted = probabilities.argmax(axis=1)
    calibration = reliability(probabilities.max(axis=1), predicted == labels)
    names = [str(index) for index in range(7)]
    confusion = confusion_matrix(labels, predicted, 7)
    stored = on_disk(tmp_path, probabilities)
    found, _ = measures(names, confusion, calibration, 2.0, labels, stored)
    assert found.classes[3].auc is None
    assert found.classes[3].support == 0
    assert found.top5 is not None
    expected = metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=range(7))
    assert found.top5.value == pytest.approx(expected)


def test_foreground_that_nowhere_stands_has_no_curves() -> None:
    levels = np.zeros((2, 256), np.int64)
    levels[0, 3] = 50
    ranking = rank_foreground(levels)
    assert np.isnan(ranking.auc).all()


def test_calibration_error_equals_torchmetrics() -> None:
    probabilities, labels = answers()
    right = probabilities.argmax(axis=1) == labels
    found = reliability(probabilities.max(axis=1), right)
    expected = MulticlassCalibrationError(7, n_bins=15)(
        torch.from_numpy(probabilities), torch.from_numpy(labels)
    )
    assert found.expected_calibration_error == pytest.approx(float(expected), abs=1e-6)


def test_counted_answers_are_as_many_single_ones() -> None:
    confidences = np.array([0.2, 0.2, 0.2, 0.9, 0.9])
    right = np.array([0, 1, 0, 1, 1])
    single = reliability(confidences, right)
    counted = reliability(np.array([0.2, 0.9]), np.array([1, 2]), np.array([3, 2]))
    assert counted.expected_calibration_error == pytest.approx(single.expected_calibration_error)
    assert counted.count.tolist() == single.count.tolist()
