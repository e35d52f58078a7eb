"""The figures by which answers are judged: accuracy, drop, agreement, chance, and the
further measures of a task."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation import (
    Estimate,
    accuracy,
    accuracy_drop,
    agreement,
    class_iou,
    foreground_iou,
    foreground_iou_drop,
    mean_iou,
    mean_iou_drop,
    rank_gallery,
    verification,
)
from serving.base.task import Measure
from serving.base.tensor import Array
from training.evaluation.boundary_benchmark import boundary_scores
from training.evaluation.network_answers import Answers
from training.evaluation.rows_on_disk import RowsOnDisk

_FALSE_ACCEPT_RATE = 0.01
_RANKS = (5, 10)
# Classes that a report names among those that lost.
_WORST_CLASSES = 10
# Thresholds at which the outlines of a probability map are compared: 0.05, 0.1 ... 0.95.
_THRESHOLDS = 19

_Matrix = NDArray[np.int64]


@dataclass(frozen=True)
class _Figure:
    """How a measure is computed.

    value: from answers.
    drop: from the reference's answers and others to the same images.
    pooled: from the confusion matrix [C, C] of a whole split; None where answers have none.
    by_class: each class's share of it, [C], from the same; None likewise.
    """

    value: Callable[[Answers], Estimate]
    drop: Callable[[Answers, Answers], Estimate]
    pooled: Callable[[_Matrix], float] | None
    by_class: Callable[[_Matrix], NDArray[np.float64]] | None


def _right(answers: Answers) -> NDArray[np.bool_]:
    return answers.scores > 0


def _overlaps(answers: Answers) -> NDArray[np.int64]:
    if answers.overlaps is None:
        raise ValueError("the answers are no masks")
    return answers.overlaps


def _recalls(confusion: _Matrix) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diagonal(confusion) / confusion.sum(axis=1))


_FIGURES: dict[Measure, _Figure] = {
    "top1": _Figure(
        value=lambda found: accuracy(_right(found)),
        drop=lambda reference, found: accuracy_drop(_right(reference), _right(found)),
        pooled=lambda confusion: float(np.trace(confusion) / confusion.sum()),
        by_class=_recalls,
    ),
    "rank1": _Figure(
        value=lambda found: accuracy(_right(found)),
        drop=lambda reference, found: accuracy_drop(_right(reference), _right(found)),
        pooled=None,
        by_class=None,
    ),
    "miou": _Figure(
        value=lambda found: mean_iou(_overlaps(found)),
        drop=lambda reference, found: mean_iou_drop(_overlaps(reference), _overlaps(found)),
        pooled=lambda confusion: float(np.nanmean(class_iou(confusion))),
        by_class=class_iou,
    ),
    "iou": _Figure(
        value=lambda found: foreground_iou(_overlaps(found)),
        drop=lambda reference, found: foreground_iou_drop(_overlaps(reference), _overlaps(found)),
        pooled=lambda confusion: float(np.nan_to_num(class_iou(confusion)[1], nan=1.0)),
        by_class=class_iou,
    ),
}


def accuracy_of(measure: Measure, answers: Answers) -> Estimate:
    """The figure that the gate judges."""
    return _FIGURES[measure].value(answers)


def drop_of(measure: Measure, reference: Answers, found: Answers) -> Estimate:
    """The accuracy of the reference less that of `found`, on the same images."""
    return _FIGURES[measure].drop(reference, found)


def chance_of(measure: Measure, answers: Answers) -> float:
    """The figure that the best constant answer gets on the same images: the share of the largest
    class, the IoU of predicting one class everywhere, the share of the person with most probes."""
    pooled = _FIGURES[measure].pooled
    if pooled is None:
        shown = answers.embedded
        if shown is None:
            raise ValueError(f"{measure}: the answers hold no identities")
        probes = np.unique(shown.identities[shown.probes], return_counts=True)[1]
        return float(probes.max() / probes.sum())
    counts = answers.confusion.sum(axis=1)
    if not counts.any():
        return 1.0
    # Column k of a confusion matrix holds the images, or pixels, that were answered with class k.
    # A class that is not there is never the best answer.
    constant = (counts[:, None] * (np.arange(len(counts)) == k) for k in np.flatnonzero(counts))
    return max(pooled(confusion) for confusion in constant)


def class_drops(
    measure: Measure, reference: Answers, found: Answers, classes: Sequence[str]
) -> dict[str, float]:
    """The loss of recall, or of IoU for masks, of the classes that lost most: at most ten, the
    worst first. Identities have none: each has a few images only."""
    by_class = _FIGURES[measure].by_class
    if by_class is None:
        return {}
    before, after = (by_class(one.confusion) for one in (reference, found))
    drops = {
        name: float(drop)
        for name, drop in zip(classes, before - after, strict=True)
        if np.isfinite(drop) and drop > 0
    }
    worst = sorted(drops, key=lambda name: -drops[name])[:_WORST_CLASSES]
    return {name: drops[name] for name in worst}


def agreement_of(reference: Answers, found: Answers) -> float:
    """Share of equal answers: classes, pixels, nearest people."""
    here, there = reference.predictions, found.predictions
    if not isinstance(here, RowsOnDisk) or not isinstance(there, RowsOnDisk):
        return agreement(np.asarray(here), np.asarray(there))
    equal = total = 0
    for one, other in zip(here.parts(), there.parts(), strict=True):
        equal += int(np.count_nonzero(one == other))
        total += one.size
    return equal / total if total else 1.0


def other_measures(reference: Answers, found: Answers) -> dict[str, Estimate | float]:
    """Further measures of a task, by the names that the manifest and tables use.

    Binary masks: ODS and OIS of the regions' outlines, and the threshold of the former. Embeddings:
    TAR at a FAR of 1 %, EER, AUC, rank-5, rank-10, and the mean cosine with the reference's.
    """
    if found.probability_maps is not None and found.truths is not None:
        return _outlines(found.probability_maps, found.truths)
    if found.embedded is None or reference.embedded is None:
        return {}
    here, there = found.embedded, reference.embedded
    verified = verification(here.embeddings, here.identities, (_FALSE_ACCEPT_RATE,))
    ranking = rank_gallery(here.embeddings, here.identities)
    return {
        f"tar@far={_FALSE_ACCEPT_RATE:g}": verified.tar_at_far[_FALSE_ACCEPT_RATE],
        "eer": verified.eer,
        "auc": verified.curve.auc,
        **{f"rank{k}": accuracy(ranking.ranks < k) for k in _RANKS},
        "cosine": float((here.embeddings * there.embeddings).sum(axis=1).mean()),
    }


def _outlines(maps: RowsOnDisk, truths: RowsOnDisk) -> dict[str, Estimate | float]:
    def images(stored: RowsOnDisk) -> Iterator[Array]:
        return itertools.chain.from_iterable(stored.parts())

    scores = boundary_scores(
        (levels.astype(np.float32) / 255 for levels in images(maps)),
        ([truth == 1] for truth in images(truths)),
        thresholds=_THRESHOLDS,
        regions=True,
        counted=(truth != 255 for truth in images(truths)),
    )
    return {"ods": scores.ods, "ois": scores.ois, "ods_threshold": scores.threshold}
