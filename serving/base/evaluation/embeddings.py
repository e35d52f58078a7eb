"""Verification and identification by embeddings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation.classes import accuracy, in_top_k
from serving.base.evaluation.curves import Curve, detection_curve
from serving.base.evaluation.estimate import RESAMPLES, SEED, Estimate


@dataclass(frozen=True)
class Verification:
    """Whether two images show the same identity, decided by the cosine of their embeddings.

    Intervals resample identities, since pairs that share an image are not independent.

    genuine_pairs, impostor_pairs: numbers of pairs of one identity, and of two.
    tar_at_far: true accept rate by false accept rate.
    eer: error rate at the threshold where false accepts and false rejects are equally frequent.
    curve: its recall is the true accept rate.
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
    """Over all pairs of L2-normalised embeddings [N, D] and their identities [N].

    Raises ValueError where there is no genuine or no impostor pair.
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
    draws = np.random.default_rng(SEED).multinomial(
        len(people), np.full(len(people), 1 / len(people)), size=RESAMPLES
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

    probes: int64 [P], rows of the other images.
    people: int64 [G], identities in the gallery.
    scores: float32 [P, G], cosine of probe and gallery image.
    labels: int64 [P], the right column of each probe.
    """

    probes: NDArray[np.int64]
    people: NDArray[np.int64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


def rank_gallery(embeddings: NDArray[np.float32], identities: NDArray[np.int64]) -> Ranking:
    """The ranking of L2-normalised embeddings [N, D] with their identities [N].

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
    """Cumulative match characteristic: by k, the share of probes whose identity is among the k
    nearest of the gallery of `rank_gallery`.

    Raises ValueError where no identity has a second image.
    """
    ranking = rank_gallery(embeddings, identities)
    return {k: accuracy(in_top_k(ranking.scores, ranking.labels, k)) for k in ranks}
