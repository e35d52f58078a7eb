"""How well a probability map finds boundaries: ODS and OIS of the Berkeley benchmark (Arbelaez et
al., Contour Detection and Hierarchical Image Segmentation, PAMI 2011, §3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

Mask = NDArray[np.bool_]

# How far apart matched pixels may be, as a share of the image's diagonal.
TOLERANCE = 0.0075
THRESHOLDS = 99


@dataclass(frozen=True)
class BoundaryScores:
    """Best F-measure with one threshold for all images (ODS) and with the best one of each (OIS),
    and the threshold of the first."""

    ods: float
    ois: float
    threshold: float


def boundary_scores(
    probabilities: Sequence[NDArray[np.floating]],
    truths: Sequence[Sequence[Mask]],
    *,
    tolerance: float = TOLERANCE,
    thresholds: int = THRESHOLDS,
) -> BoundaryScores:
    """From maps [H, W] in [0, 1] and, for each image, the boundaries bool [H, W] that one or more
    people drew.

    Matching is one to one. A pixel of the map is right if it matches in any drawing; recall counts
    over all drawings. Maps are taken as they are: thin them first (non-maximum suppression), since
    the pixels of a thick line beyond the first match nothing. Raises ValueError where there are no
    images, or a map and its drawings differ in size.
    """
    if not probabilities:
        raise ValueError("expected at least one image")
    levels = np.linspace(0, 1, thresholds + 2)[1:-1]
    # Matched and all pixels of the maps, matched and all pixels of the drawings.
    counts = np.zeros((len(probabilities), thresholds, 4))
    for image, (probability, drawn) in enumerate(zip(probabilities, truths, strict=True)):
        if any(truth.shape != probability.shape for truth in drawn):
            raise ValueError(f"image {image}: its map and its drawings differ in size")
        reach = tolerance * float(np.hypot(*probability.shape))
        for index, level in enumerate(levels):
            counts[image, index] = _count(probability >= level, drawn, reach)
    f_measures = _f_measure(counts.sum(axis=0))
    best = int(np.argmax(f_measures))
    each = np.argmax(_f_measure(counts), axis=1)
    ois = _f_measure(counts[np.arange(len(counts)), each].sum(axis=0))
    return BoundaryScores(float(f_measures[best]), float(ois), float(levels[best]))


def match(found: Mask, truth: Mask, reach: float) -> tuple[Mask, Mask]:
    """Which pixels of two boundaries have a partner of their own in the other, at most `reach`
    pixels away; as many pairs as there can be (Hopcroft and Karp)."""
    places, others = np.argwhere(found), np.argwhere(truth)
    matched, covered = np.zeros_like(found), np.zeros_like(truth)
    if not len(places) or not len(others):
        return matched, covered
    near = KDTree(places).query_ball_point(others, reach)
    lengths = np.array([len(neighbours) for neighbours in near])
    columns = np.concatenate([np.asarray(neighbours, dtype=np.int32) for neighbours in near])
    edges = csr_array(
        (np.ones(len(columns), np.int8), columns, np.concatenate([[0], np.cumsum(lengths)])),
        shape=(len(others), len(places)),
    )
    partner = maximum_bipartite_matching(edges, perm_type="column")
    covered[tuple(others[partner >= 0].T)] = True
    matched[tuple(places[partner[partner >= 0]].T)] = True
    return matched, covered


def _count(found: Mask, drawn: Sequence[Mask], reach: float) -> tuple[int, int, int, int]:
    right, covered, total = np.zeros_like(found), 0, 0
    for truth in drawn:
        matched, reached = match(found, truth, reach)
        right |= matched
        covered += int(reached.sum())
        total += int(truth.sum())
    return int(right.sum()), int(found.sum()), covered, total


def _f_measure(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of counts [..., 4]; 0 where precision and recall are 0 or undefined."""
    right, found, covered, total = np.moveaxis(counts, -1, 0)
    precision = right / np.maximum(found, 1)
    recall = covered / np.maximum(total, 1)
    return np.asarray(2 * precision * recall / np.maximum(precision + recall, 1e-12))
