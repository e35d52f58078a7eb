"""Measures that only a build takes: each class, its ranking, and calibration. Accuracy and its
interval are serving.base.evaluation's."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation import (
    Curve,
    accuracy,
    class_iou,
    class_reports,
    counted_curve,
    detection_curve,
    in_top_k,
)
from serving.base.tensor import Array
from training.evaluation.rows_on_disk import RowsOnDisk
from training.evaluation.verification import ClassMeasures, Measures

TOP = 5
# Probabilities that are held at a time to rank classes; more read the file less often.
_SCORES = 1 << 23
_BINS = 15
# False positive rates, and recalls, at which curves are sampled for the report.
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Ranking:
    """Each class against all others, float64: areas [C], and on GRID the recall (TPR) over the
    false positive rate and the precision over recall [C, 101]; nan for a class without examples,
    or one that is not ranked."""

    average_precision: NDArray[np.float64]
    auc: NDArray[np.float64]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]


def rank_classes(probabilities: RowsOnDisk, labels: NDArray[np.int64], classes: int) -> Ranking:
    """One against the rest, from probabilities float32 [N, C] and labels [N]. Some classes are read
    at a time."""
    step = max(1, _SCORES // max(1, len(labels)))

    def curves() -> Iterator[Curve | None]:
        for first in range(0, classes, step):
            read = probabilities.columns(first, min(first + step, classes))
            for index in range(first, first + read.shape[1]):
                positive = labels == index
                mixed = positive.any() and not positive.all()
                yield detection_curve(read[:, index - first], positive) if mixed else None

    return _ranking(curves(), classes)


def rank_foreground(levels: NDArray[np.int64]) -> Ranking:
    """Ranks class 1 of two, from the numbers of pixels of either at each level of its probability
    [2, L]; class 0, whose ranking is the same turned round, has none."""
    return _ranking([None, counted_curve(levels) if levels.any(axis=1).all() else None], 2)


def _ranking(each: Iterable[Curve | None], classes: int) -> Ranking:
    areas = np.full((2, classes), np.nan)
    curves = np.full((2, classes, GRID.size), np.nan)
    for index, curve in enumerate(each):
        if curve is not None:
            areas[:, index] = curve.average_precision, curve.auc
            curves[:, index] = curve.recall_at(GRID), curve.precision_at(GRID)
    return Ranking(areas[0], areas[1], curves[0], curves[1])


@dataclass(frozen=True)
class Reliability:
    """Answers in 15 bins of equal width by confidence: float64 [15] of their mean confidence, the
    share that is right and their number; the first two are nan where there are none."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.float64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy, bins weighed by their number (arXiv 1706.04599,
        equation 3)."""
        gaps = np.nan_to_num(np.abs(self.confidence - self.accuracy))
        return float((gaps * self.count).sum() / max(1.0, self.count.sum()))


def reliability(confidences: Array, right: Array, counts: Array | None = None) -> Reliability:
    """From confidences [N] and whether each was right [N]; with `counts` an element stands for as
    many answers, and `right` says how many of them were."""
    weights = np.ones(len(confidences)) if counts is None else counts.astype(np.float64)
    bins = np.clip(np.ceil(confidences * _BINS).astype(int) - 1, 0, _BINS - 1)
    count = np.bincount(bins, weights, _BINS)
    confidence = np.bincount(bins, weights * confidences, _BINS)
    hits = np.bincount(bins, right.astype(np.float64), _BINS)
    empty = np.where(count > 0, count, np.nan)
    return Reliability(confidence / empty, hits / empty, count.astype(np.float64))


def measures(
    names: Sequence[str],
    confusion: NDArray[np.int64],
    calibration: Reliability,
    beta: float,
    labels: NDArray[np.int64] | None = None,
    probabilities: RowsOnDisk | None = None,
    levels: NDArray[np.int64] | None = None,
) -> tuple[Measures, Ranking | None]:
    """Measures the classes of a confusion matrix [C, C]; where labels [N] and probabilities [N, C]
    on disk, or the levels of a foreground [2, L] are given, their ranking too."""
    iou = class_iou(confusion)
    ranking = top = None
    if labels is not None and probabilities is not None:
        ranking = rank_classes(probabilities, labels, len(confusion))
        if len(names) > TOP:
            top = accuracy(_in_top(probabilities, labels))
    elif levels is not None:
        ranking = rank_foreground(levels)
    rows = []
    for index, report in enumerate(class_reports(confusion, beta)):
        rows.append(
            ClassMeasures(
                name=names[index],
                precision=report.precision,
                recall=report.recall,
                specificity=report.specificity,
                f1=report.f1,
                f_beta=report.f_beta,
                iou=_known(iou[index]),
                average_precision=_known(ranking.average_precision[index]) if ranking else None,
                auc=_known(ranking.auc[index]) if ranking else None,
                support=report.support,
            )
        )
    found = Measures(
        beta=beta,
        top5=top,
        expected_calibration_error=calibration.expected_calibration_error,
        classes=tuple(rows),
    )
    return found, ranking


def _in_top(probabilities: RowsOnDisk, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each label [N] is among the five best of probabilities [N, C]; bool [N]."""
    hits, start = np.zeros(len(labels), np.bool_), 0
    for part in probabilities.parts():
        end = start + len(part)
        hits[start:end] = in_top_k(part, labels[start:end], TOP)
        start = end
    return hits


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
