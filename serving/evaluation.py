"""How good answers are, in numpy: used by `convserve evaluate` and by training's verify stage.

Intervals are 95 %. An image is the unit of chance everywhere: pixels of one image are not
independent, so segmentation measures resample images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.manifest import PROBABILITY_OUTPUT, Estimate
from serving.tensor import Array

_Z = 1.959964
_RESAMPLES = 1000
_SEED = 0


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
    """How much less often `candidate` is right than `reference` on the same images, bool [N] each.

    Newcombe's interval for a difference of paired proportions (1998, method 10), which stays
    honest when the two hardly ever differ.
    """
    n = int(reference.size)
    if n == 0:
        return Estimate(value=0.0, low=-1.0, high=1.0, n=0)
    first, second = accuracy(reference), accuracy(candidate)
    difference = first.value - second.value
    both = float((reference & candidate).sum())
    neither = float((~reference & ~candidate).sum())
    only_first = float((reference & ~candidate).sum())
    only_second = float((~reference & candidate).sum())
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
    """Of one class: precision TP/(TP+FP), recall TP/(TP+FN), specificity TN/(TN+FP), the harmonic
    mean F1 of the first two, F-beta in which recall counts beta times as much as precision, and the
    number of true examples."""

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


@dataclass(frozen=True)
class Curve:
    """What a detector does as its threshold falls: float64 [T] each, one point a distinct score."""

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
    """ROC and precision-recall of scores [N] for what is `positive` [N].

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
    """detection_curve of scores that are whole numbers 0 to L - 1, from how many negatives and how
    many positives have each, [2, L]. Raises what that raises."""
    positives, total = int(levels[1].sum()), int(levels.sum())
    if not 0 < positives < total:
        raise ValueError(f"expected positives and negatives, got {positives} positive of {total}")
    falls = levels[:, levels.sum(axis=0) > 0][:, ::-1].cumsum(axis=1).astype(np.float64)
    return Curve(
        false_positive_rate=falls[0] / (total - positives),
        recall=falls[1] / positives,
        precision=falls[1] / falls.sum(axis=0),
    )


def class_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class from confusion matrices [..., C, C]; nan for a class
    that neither stands in the truth nor was predicted."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(axis=-1) + confusion.sum(axis=-2) - hits
    iou = np.full(hits.shape, np.nan)
    np.divide(hits, union, out=iou, where=union > 0)
    return iou


def mean_iou(confusions: NDArray[np.int64]) -> Estimate:
    """Mean IoU over the classes of all images pooled, from one confusion matrix an image
    [N, C, C]; percentile bootstrap over the images that have pixels to count."""
    return _bootstrap(_pooled_mean_iou, confusions, None)


def mean_iou_drop(reference: NDArray[np.int64], candidate: NDArray[np.int64]) -> Estimate:
    """Mean IoU of `reference` less that of `candidate` on the same images, [N, C, C] each; each
    resample draws the same images for both."""
    return _bootstrap(_pooled_mean_iou, reference, candidate)


def foreground_iou(confusions: NDArray[np.int64]) -> Estimate:
    """IoU of class 1 of all images pooled, from one confusion matrix an image [N, 2, 2]; 1 where
    there is nothing to find and nothing was found. Intervals as those of mean_iou."""
    return _bootstrap(_pooled_foreground_iou, confusions, None)


def foreground_iou_drop(reference: NDArray[np.int64], candidate: NDArray[np.int64]) -> Estimate:
    """foreground_iou of `reference` less that of `candidate`, as mean_iou_drop."""
    return _bootstrap(_pooled_foreground_iou, reference, candidate)


def _pooled_mean_iou(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.nanmean(class_iou(confusions), axis=-1))


def _pooled_foreground_iou(confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.nan_to_num(class_iou(confusions)[..., 1], nan=1.0)


def _bootstrap(
    measure: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    first: NDArray[np.int64],
    second: NDArray[np.int64] | None,
) -> Estimate:
    """`measure` gives the values of pooled confusion matrices [R, C, C]."""
    # An image without one pixel that counts says nothing; a draw of none but such has no IoU.
    counted = first.sum(axis=(1, 2)) > 0
    first, second = first[counted], None if second is None else second[counted]
    n = len(first)
    if n == 0:
        return Estimate(value=0.0, low=-1.0 if second is not None else 0.0, high=1.0, n=0)

    def pooled(weights: NDArray[np.float64], confusions: NDArray[np.int64]) -> NDArray[np.float64]:
        flat = confusions.reshape(n, -1).astype(np.float64)
        summed = (weights @ flat).reshape(-1, *confusions.shape[1:])
        return measure(summed.astype(np.int64))

    draws = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    weights = np.concatenate([np.ones((1, n)), draws.astype(np.float64)])
    values = pooled(weights, first)
    if second is not None:
        values = values - pooled(weights, second)
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Estimate(value=float(values[0]), low=float(low), high=float(high), n=n)


def agreement(reference: Array, candidate: Array) -> float:
    """Share of equal elements of two integer arrays of one shape: predicted classes or masks."""
    return float(np.mean(reference == candidate)) if reference.size else 1.0


def answer_distance(reference: Array, candidate: Array) -> float:
    """How far an output is from its reference of the same shape. Floating point: the norm of the
    difference over the norm of the reference. Integers (class maps): the share that differs."""
    if reference.shape != candidate.shape:
        return math.inf
    if reference.dtype.kind in "biu":
        return 1.0 - agreement(reference, candidate)
    difference = np.linalg.norm(candidate.astype(np.float64) - reference.astype(np.float64))
    distance = float(difference / max(float(np.linalg.norm(reference.astype(np.float64))), 1e-12))
    return distance if math.isfinite(distance) else math.inf


def output_distance(name: str, reference: Array, candidate: Array) -> float:
    """answer_distance of the output of that name. A probability map is an amount: the norm of the
    difference over that of the reference, which counts as one level a pixel at least, so that a
    map of nothing but zeros is no infinite distance from one of ones."""
    if name != PROBABILITY_OUTPUT or reference.shape != candidate.shape:
        return answer_distance(reference, candidate)
    difference = np.linalg.norm(candidate.astype(np.float64) - reference.astype(np.float64))
    size = max(float(np.linalg.norm(reference.astype(np.float64))), math.sqrt(reference.size))
    return float(difference / max(size, 1.0))


@dataclass(frozen=True)
class Verification:
    """Are two images of the same one? By the cosine of their embeddings, over all pairs.

    tar_at_far: share of genuine pairs accepted at the threshold at which a share of impostor pairs
    is; eer: the error where both kinds are equally frequent; curve: the true accept rate is its
    recall. Intervals resample identities, since pairs that share an image are not independent.
    """

    genuine_pairs: int
    impostor_pairs: int
    tar_at_far: dict[float, Estimate]
    eer: float
    curve: Curve


def verification(
    embeddings: NDArray[np.float32],
    identities: NDArray[np.int64],
    false_accept_rates: tuple[float, ...] = (0.01, 0.001),
) -> Verification:
    """From L2-normalised embeddings [N, D] and who each shows [N].

    Raises ValueError where there is no pair of the one kind or the other.
    """
    similarity = embeddings @ embeddings.T
    upper = np.triu(np.ones(similarity.shape, dtype=np.bool_), k=1)
    same = identities[:, None] == identities[None, :]
    genuine, impostor = similarity[upper & same], similarity[upper & ~same]
    if not genuine.size or not impostor.size:
        raise ValueError(
            "verification needs two identities, and one of them with two images at least"
        )
    people = np.unique(identities)
    owner = identities[np.nonzero(upper & same)[0]]
    draws = np.random.default_rng(_SEED).multinomial(
        len(people), np.full(len(people), 1 / len(people)), size=_RESAMPLES
    )
    weights = draws[:, np.searchsorted(people, owner)].astype(np.float64)
    found = {}
    for rate in false_accept_rates:
        threshold = np.quantile(impostor, 1 - rate, method="higher")
        accepted = (genuine > threshold).astype(np.float64)
        totals = weights.sum(axis=1)
        shares = (weights @ accepted)[totals > 0] / totals[totals > 0]
        low, high = np.percentile(shares, [2.5, 97.5])
        found[rate] = Estimate(
            value=float(accepted.mean()), low=float(low), high=float(high), n=len(embeddings)
        )
    return Verification(
        genuine_pairs=genuine.size,
        impostor_pairs=impostor.size,
        tar_at_far=found,
        eer=_equal_error_rate(genuine, impostor),
        curve=detection_curve(similarity[upper], same[upper]),
    )


def _equal_error_rate(genuine: NDArray[np.float32], impostor: NDArray[np.float32]) -> float:
    """Where the shares of refused genuine and of accepted impostor pairs cross."""
    thresholds = np.unique(np.concatenate([genuine, impostor]))
    refused = np.searchsorted(np.sort(genuine), thresholds) / genuine.size
    accepted = 1 - np.searchsorted(np.sort(impostor), thresholds) / impostor.size
    nearest = int(np.argmin(np.abs(refused - accepted)))
    return float((refused[nearest] + accepted[nearest]) / 2)


@dataclass(frozen=True)
class Ranking:
    """A gallery that holds the first image of each identity, ranked for each of the other images.

    probes: int64 [P], the rows of those images. people: int64 [G], the identities in the gallery.
    scores: float32 [P, G], cosine of probe and gallery image. labels: int64 [P], the right column.
    """

    probes: NDArray[np.int64]
    people: NDArray[np.int64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


def rank_gallery(embeddings: NDArray[np.float32], identities: NDArray[np.int64]) -> Ranking:
    """From L2-normalised embeddings [N, D] and who each shows [N].

    Raises ValueError where no identity has a second image.
    """
    people, first = np.unique(identities, return_index=True)
    probes = np.setdiff1d(np.arange(len(identities)), first)
    if not probes.size:
        raise ValueError("identification needs an identity with two images at least")
    scores = (embeddings[probes] @ embeddings[first].T).astype(np.float32)
    return Ranking(probes, people, scores, np.searchsorted(people, identities[probes]))


def identification(
    embeddings: NDArray[np.float32], identities: NDArray[np.int64], ranks: tuple[int, ...]
) -> dict[int, Estimate]:
    """Cumulative match characteristic: how often the right identity is among the k nearest of the
    gallery of `rank_gallery`. By k. Raises what that raises."""
    ranking = rank_gallery(embeddings, identities)
    return {k: accuracy(in_top_k(ranking.scores, ranking.labels, k)) for k in ranks}
