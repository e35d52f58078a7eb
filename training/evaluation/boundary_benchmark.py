"""Boundaries found by a probability map: ODS and OIS of the Berkeley benchmark (Arbelaez et
al., Contour Detection and Hierarchical Image Segmentation, PAMI 2011, §3.1)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

Mask = NDArray[np.bool_]

# Largest distance of matched pixels, as a share of the image's diagonal (the benchmark's own).
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
    probabilities: Iterable[NDArray[np.floating]],
    truths: Iterable[Sequence[Mask]],
    *,
    tolerance: float = TOLERANCE,
    thresholds: int = THRESHOLDS,
    regions: bool = False,
    counted: Iterable[Mask] | None = None,
) -> BoundaryScores:
    """From maps [H, W] in [0, 1] and, for each image, the boundaries bool [H, W] that one or more
    people drew.

    Matching is one to one. A pixel of the map is right if it matches in any drawing; recall counts
    over all drawings. Maps are taken as they are: thin them first (non-maximum suppression), since
    the pixels of a thick line beyond the first match nothing. With `regions` maps and drawings are
    filled, and their outlines are compared. `counted` bool [H, W] of each image says what counts;
    what is nearer to the rest than pixels may match is left out too. Each image is asked for once.
    Raises ValueError where there are no images, or a map and its drawings differ in size.
    """
    levels = np.linspace(0, 1, thresholds + 2)[1:-1]
    # Matched and all pixels of the maps, matched and all of the drawings: at each level, and at the
    # best level of each image.
    pooled, best_of_each = np.zeros((thresholds, 4), np.int64), np.zeros(4, np.int64)
    images = 0
    everywhere = repeat(None) if counted is None else counted
    pairs = zip(probabilities, truths, strict=True)
    for (probability, drawn), kept in zip(pairs, everywhere, strict=counted is not None):
        if any(truth.shape != probability.shape for truth in drawn):
            raise ValueError(f"image {images}: its map and its drawings differ in size")
        reach = tolerance * float(np.hypot(*probability.shape))
        far = None if kept is None else _far(~kept, reach)
        lines = [_line(truth, far, regions) for truth in drawn]
        found, rows = None, []
        for level in levels:
            above = probability >= level
            # A sure map is the same at most levels, and matching takes the time.
            if found is None or not np.array_equal(above, found):
                found, count = above, _count(_line(above, far, regions), lines, reach)
            rows.append(count)
        counts = np.array(rows, np.int64)
        pooled += counts
        best_of_each += counts[np.argmax(_f_measure(counts))]
        images += 1
    if not images:
        raise ValueError("expected at least one image")
    f_measures = _f_measure(pooled)
    best = int(np.argmax(f_measures))
    return BoundaryScores(
        float(f_measures[best]), float(_f_measure(best_of_each)), float(levels[best])
    )


def outline(region: Mask) -> Mask:
    """Pixels of a region [H, W] with one of their four neighbours outside of it. Where it leaves
    the image is no boundary."""
    padded = np.pad(region, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(region & ~inside)


def _line(drawn: Mask, far: Mask | None, regions: bool) -> Mask:
    line = outline(drawn) if regions else drawn
    return line if far is None else line & far


def _far(ignored: Mask, reach: float) -> Mask:
    """Where no ignored pixel is within reach, nor beside: it would make an outline of its own."""
    if not ignored.any():
        return ~ignored
    return np.asarray(distance_transform_edt(~ignored) > max(reach, 1.0))


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


def _f_measure(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F-measure from counts [..., 4]; 0 where precision and recall are 0 or undefined."""
    right, found, covered, total = np.moveaxis(counts, -1, 0)
    precision = right / np.maximum(found, 1)
    recall = covered / np.maximum(total, 1)
    return np.asarray(2 * precision * recall / np.maximum(precision + recall, 1e-12))
