"""Verification and identification by embeddings.

Pairs are compared in blocks of rows: memory is the embeddings' own, N · D · 4 bytes, and a few
blocks of _PAIRS, whatever the number of pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation.classes import accuracy
from serving.base.evaluation.curves import Curve, counted_curve
from serving.base.evaluation.estimate import Estimate, resampled

# Levels of equal width over [-1, 1] at which cosines are counted. More tell nearer cosines apart
# and take 16 bytes each.
LEVELS = 1 << 18
# Pairs that are compared at a time; more take more memory, about 20 bytes each, and are hardly
# faster.
_PAIRS = 1 << 20


@dataclass(frozen=True)
class Verification:
    """Whether two images show the same identity, decided by the cosine of their embeddings.

    Intervals resample identities, since pairs that share an image are not independent.

    counts: pairs of two identities (row 0) and of one (row 1) at each level of their cosine,
        int64 [2, LEVELS].
    tar_at_far: true accept rate by false accept rate.
    eer: error rate at the threshold where false accepts and false rejects are equally frequent.
    curve: its recall is the true accept rate.
    """

    counts: NDArray[np.int64]
    tar_at_far: dict[float, Estimate]
    eer: float
    curve: Curve

    @property
    def genuine_pairs(self) -> int:
        return int(self.counts[1].sum())

    @property
    def impostor_pairs(self) -> int:
        return int(self.counts[0].sum())


def verification(
    embeddings: NDArray[np.float32],
    identities: NDArray[np.int64],
    false_accept_rates: tuple[float, ...] = (0.01, 0.001),
) -> Verification:
    """Over all pairs of L2-normalised embeddings [N, D] and their identities [N].

    Raises ValueError where there is no genuine or no impostor pair.
    """
    counts = np.zeros((2, LEVELS), np.int64)
    for rows, columns, levels in _pairs(embeddings):
        same = identities[rows] == identities[columns]
        counts += [np.bincount(levels[same == side], minlength=LEVELS) for side in (False, True)]
    if not counts.any(axis=1).all():
        raise ValueError(
            "verification needs two identities, and one of them with two images at least"
        )
    people, owner = np.unique(identities, return_inverse=True)
    total, accepted = _genuine_by_person(
        embeddings, owner, len(people), [_threshold(counts[0], rate) for rate in false_accept_rates]
    )

    def shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """By draw and rate."""
        with np.errstate(invalid="ignore"):
            return np.asarray((weights @ accepted.T) / (weights @ total)[:, None])

    drawn = resampled(len(people), shares)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    found = {}
    for index, rate in enumerate(false_accept_rates):
        low, high = np.percentile(drawn[1:, index], [2.5, 97.5])
        found[rate] = Estimate(
            value=float(drawn[0, index]), low=float(low), high=float(high), n=len(embeddings)
        )
    return Verification(counts, found, _equal_error_rate(counts), counted_curve(counts))


def _pairs(
    embeddings: NDArray[np.float32],
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
    """All pairs of rows [N, D] once, in blocks: first row, second row and level of the cosine."""
    count = len(embeddings)
    step = max(1, _PAIRS // max(1, count))
    for start in range(0, count, step):
        block = embeddings[start : start + step]
        similarity = block @ embeddings[start:].T
        rows, columns = np.nonzero(
            np.arange(similarity.shape[1])[None] > np.arange(len(block))[:, None]
        )
        levels = ((similarity[rows, columns] + 1) * (LEVELS / 2)).astype(np.intp)
        yield rows + start, columns + start, np.clip(levels, 0, LEVELS - 1)


def _threshold(impostors: NDArray[np.int64], rate: float) -> int:
    """The lowest level above which lies at most the share `rate` of the impostor pairs."""
    running = np.cumsum(impostors)
    place = np.ceil((1 - rate) * (running[-1] - 1))
    return int(np.searchsorted(running, place, side="right"))


def _genuine_by_person(
    embeddings: NDArray[np.float32], owner: NDArray[np.intp], people: int, thresholds: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Genuine pairs of each person [people], and those above each threshold [T, people]."""
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=people))
    total, accepted = np.zeros(people), np.zeros((len(thresholds), people))
    for person, members in enumerate(np.split(order, ends[:-1])):
        for _, _, levels in _pairs(embeddings[members]):
            total[person] += len(levels)
            for index, threshold in enumerate(thresholds):
                accepted[index, person] += np.count_nonzero(levels > threshold)
    return total, accepted


def _equal_error_rate(counts: NDArray[np.int64]) -> float:
    """Where the shares of refused genuine and of accepted impostor pairs cross."""
    impostor, genuine = (
        np.concatenate([[0], np.cumsum(of_kind)[:-1]]) / of_kind.sum() for of_kind in counts
    )
    seen = counts.any(axis=0)
    refused, accepted = genuine[seen], 1 - impostor[seen]
    nearest = int(np.argmin(np.abs(refused - accepted)))
    return float((refused[nearest] + accepted[nearest]) / 2)


@dataclass(frozen=True)
class Ranking:
    """A gallery that holds the first image of each identity, ranked for each of the P other images.

    probes: int64 [P], rows of the other images.
    people: int64 [G], identities in the gallery.
    nearest: int64 [P], the column of the gallery image nearest to each probe.
    cosines: float32 [P], of the probe and that image.
    labels: int64 [P], the right column of each probe.
    ranks: int64 [P], number of gallery images that are ranked before the right one.
    """

    probes: NDArray[np.int64]
    people: NDArray[np.int64]
    nearest: NDArray[np.int64]
    cosines: NDArray[np.float32]
    labels: NDArray[np.int64]
    ranks: NDArray[np.int64]


def rank_gallery(embeddings: NDArray[np.float32], identities: NDArray[np.int64]) -> Ranking:
    """The ranking of L2-normalised embeddings [N, D] with their identities [N]; of equally near
    images the one that comes first in the gallery is ranked first.

    Raises ValueError where no identity has a second image.
    """
    people, first = np.unique(identities, return_index=True)
    probes = np.setdiff1d(np.arange(len(identities)), first)
    if not probes.size:
        raise ValueError("identification needs an identity with two images at least")
    labels = np.searchsorted(people, identities[probes])
    gallery, columns = embeddings[first], np.arange(len(people))
    nearest, ranks = np.empty(probes.size, np.int64), np.empty(probes.size, np.int64)
    cosines = np.empty(probes.size, np.float32)
    step = max(1, _PAIRS // len(people))
    for start in range(0, probes.size, step):
        block = slice(start, start + step)
        scores = embeddings[probes[block]] @ gallery.T
        right = labels[block, None]
        own = np.take_along_axis(scores, right, axis=1)
        before = (scores > own) | ((scores == own) & (columns < right))
        ranks[block] = before.sum(axis=1)
        nearest[block] = scores.argmax(axis=1)
        cosines[block] = scores.max(axis=1)
    return Ranking(probes, people, nearest, cosines, labels, ranks)


def identification(
    embeddings: NDArray[np.float32], identities: NDArray[np.int64], ranks: tuple[int, ...]
) -> dict[int, Estimate]:
    """Cumulative match characteristic: by k, the share of probes whose identity is among the k
    nearest of the gallery of `rank_gallery`.

    Raises ValueError where no identity has a second image.
    """
    ranking = rank_gallery(embeddings, identities)
    return {k: accuracy(ranking.ranks < k) for k in ranks}
