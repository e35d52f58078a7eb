"""Recall, precision and false positives over all thresholds of a score."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.base.tensor import Array


@dataclass(frozen=True)
class Curve:
    """The rates of a detector as its threshold falls: float64 [T] each, one point a distinct score.

    false_positive_rate: FP / negatives.
    recall: TP / positives, the true positive rate.
    precision: TP / (TP + FP).
    """

    false_positive_rate: NDArray[np.float64]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under recall (TPR) over false positive rate, by trapezoids: the chance that a
        positive scores above a negative, ties counting half (Fawcett 2006)."""
        x = np.concatenate([[0.0], self.false_positive_rate])
        y = np.concatenate([[0.0], self.recall])
        return float(np.trapezoid(y, x))

    @property
    def average_precision(self) -> float:
        """Sum of precision times the rise of recall, without interpolation."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))

    def recall_at(self, rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """The best recall at false positive rates of no more than these [R]."""
        at = np.searchsorted(self.false_positive_rate, rates, side="right")
        return np.asarray(np.append(0.0, self.recall)[at])

    def precision_at(self, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
        """The best precision at recalls of no less than these [R], at most 1."""
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        return np.asarray(best[np.searchsorted(self.recall, recalls, side="left")])


def detection_curve(scores: Array, positive: NDArray[np.bool_]) -> Curve:
    """ROC and precision-recall curves of scores [N], with the truth in `positive`, bool [N].

    Raises ValueError where there are no positives or no negatives.
    """
    positives = int(positive.sum())
    if not 0 < positives < positive.size:
        raise ValueError(
            f"expected positives and negatives, got {positives} positive of {positive.size}"
        )
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    hits = np.cumsum(positive[order])[last].astype(np.float64)
    accepted = last + 1.0
    return Curve(
        false_positive_rate=(accepted - hits) / (positive.size - positives),
        recall=hits / positives,
        precision=hits / accepted,
    )


def counted_curve(levels: NDArray[np.int64]) -> Curve:
    """detection_curve of scores that are whole numbers 0 to L - 1.

    levels: the number of negatives (row 0) and positives (row 1) with each score, [2, L].
    Raises ValueError where there are no positives or no negatives.
    """
    positives, total = int(levels[1].sum()), int(levels.sum())
    if not 0 < positives < total:
        raise ValueError(f"expected positives and negatives, got {positives} positive of {total}")
    falls = levels[:, levels.sum(axis=0) > 0][:, ::-1].cumsum(axis=1).astype(np.float64)
    return Curve(
        false_positive_rate=falls[0] / (total - positives),
        recall=falls[1] / positives,
        precision=falls[1] / falls.sum(axis=0),
    )
