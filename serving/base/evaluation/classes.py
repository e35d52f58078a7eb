"""Accuracy, its drop, and the confusion of classes."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation.estimate import Estimate
from serving.base.tensor import Array

# Standard normal quantile of a 95 % interval.
_Z = 1.959964


def accuracy(correct: NDArray[np.bool_]) -> Estimate:
    """Share of true values in bool [N], with Wilson's score interval (1927)."""
    n = int(correct.size)
    if n == 0:
        return Estimate(value=0.0, low=0.0, high=1.0, n=0)
    p = float(correct.mean())
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Estimate(value=p, low=max(0.0, centre - half), high=min(1.0, centre + half), n=n)


def accuracy_drop(reference: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> Estimate:
    """Accuracy of `reference` less that of `candidate` on the same images, bool [N] each.

    Newcombe's interval for a difference of paired proportions (1998, method 10), which keeps its
    coverage where the two hardly ever differ.
    """
    n = int(reference.size)
    if n == 0:
        return Estimate(value=0.0, low=-1.0, high=1.0, n=0)
    first, second = accuracy(reference), accuracy(candidate)
    both = float((reference & candidate).sum())
    neither = float((~reference & ~candidate).sum())
    only_first = float((reference & ~candidate).sum())
    only_second = float((~reference & candidate).sum())
    # Not of two accuracies: their rounding would put a drop of 25 in 2,500 above 0.01.
    difference = (only_first - only_second) / n
    product = (both + only_first) * (only_second + neither)
    product *= (both + only_second) * (only_first + neither)
    phi = 0.0
    if product > 0:
        covariance = both * neither - only_first * only_second
        # The continuity correction of Newcombe's method applies to positive association only.
        if covariance > 0:
            covariance = max(covariance - n / 2, 0.0)
        phi = covariance / math.sqrt(product)
    low_1, high_1 = first.value - first.low, first.high - first.value
    low_2, high_2 = second.value - second.low, second.high - second.value
    below = math.sqrt(max(0.0, low_1**2 - 2 * phi * low_1 * high_2 + high_2**2))
    above = math.sqrt(max(0.0, high_1**2 - 2 * phi * high_1 * low_2 + low_2**2))
    return Estimate(value=difference, low=difference - below, high=difference + above, n=n)


def in_top_k(scores: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Whether each label [N] is among the k best of scores [N, C]; bool [N]."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits: NDArray[np.bool_] = (best == labels[:, None]).any(axis=1)
    return hits


def confusion_matrix(
    labels: Array, predictions: Array, classes: int, ignore_index: int | None = None
) -> NDArray[np.int64]:
    """Counts [C, C]: row is the true class, column the predicted one. Any shape, elementwise."""
    labels, predictions = labels.reshape(-1).astype(np.int64), predictions.reshape(-1)
    if ignore_index is not None:
        keep = labels != ignore_index
        labels, predictions = labels[keep], predictions[keep]
    pairs = labels * classes + predictions.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class ClassReport:
    """Measures of one class.

    precision: TP / (TP + FP).
    recall: TP / (TP + FN).
    specificity: TN / (TN + FP).
    f1: harmonic mean of precision and recall.
    f_beta: the same, with recall counted beta times as much as precision.
    support: number of true examples.
    """

    precision: float
    recall: float
    specificity: float
    f1: float
    f_beta: float
    support: int


def class_reports(confusion: NDArray[np.int64], beta: float = 2.0) -> list[ClassReport]:
    """One report a class from a confusion matrix [C, C]; an undefined ratio is 0."""
    reports = []
    total = int(confusion.sum())
    for index in range(len(confusion)):
        hits = int(confusion[index, index])
        predicted, support = int(confusion[:, index].sum()), int(confusion[index].sum())
        others = total - support
        weight = beta * beta
        reports.append(
            ClassReport(
                precision=_ratio(hits, predicted),
                recall=_ratio(hits, support),
                specificity=_ratio(others - (predicted - hits), others),
                f1=_ratio(2 * hits, predicted + support),
                f_beta=_ratio((1 + weight) * hits, weight * support + predicted),
                support=support,
            )
        )
    return reports


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
