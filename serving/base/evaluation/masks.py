"""Intersection over union of class maps. Intervals resample images: pixels of one image are not
independent."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation.estimate import Estimate, resampled


def overlaps(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hits, true pixels and predicted pixels of each class, [..., 3, C], from confusion matrices
    [..., C, C]: all that IoU depends on, in 3 · C values instead of C²."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(axis=-1), confusion.sum(axis=-2)], axis=-2)


def overlap_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class from `overlaps` [..., 3, C]; nan for a class that is
    neither in the truth nor predicted."""
    hits, true, predicted = np.moveaxis(counts, -2, 0).astype(np.float64)
    union = true + predicted - hits
    iou = np.full(hits.shape, np.nan)
    np.divide(hits, union, out=iou, where=union > 0)
    return iou


def class_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same from confusion matrices [..., C, C]."""
    return overlap_iou(overlaps(confusion))


def mean_iou(counts: NDArray[np.int64]) -> Estimate:
    """Mean IoU over the classes of all images pooled, from the `overlaps` of each image [N, 3, C];
    percentile bootstrap over the images that have pixels to count."""
    return _bootstrap(_pooled_mean_iou, counts, None)


def mean_iou_drop(reference: NDArray[np.int64], candidate: NDArray[np.int64]) -> Estimate:
    """Mean IoU of `reference` less that of `candidate` on the same images, [N, 3, C] each; each
    resample draws the same images for both."""
    return _bootstrap(_pooled_mean_iou, reference, candidate)


def foreground_iou(counts: NDArray[np.int64]) -> Estimate:
    """IoU of class 1 of all images pooled, from the `overlaps` of each image [N, 3, 2]; 1 where
    class 1 is neither in the truth nor predicted. Intervals as those of mean_iou."""
    return _bootstrap(_pooled_foreground_iou, counts, None)


def foreground_iou_drop(reference: NDArray[np.int64], candidate: NDArray[np.int64]) -> Estimate:
    """foreground_iou of `reference` less that of `candidate` on the same images, [N, 3, 2] each;
    each resample draws the same images for both."""
    return _bootstrap(_pooled_foreground_iou, reference, candidate)


def _pooled_mean_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.nanmean(overlap_iou(counts), axis=-1))


def _pooled_foreground_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.nan_to_num(overlap_iou(counts)[..., 1], nan=1.0)


def _bootstrap(
    measure: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    first: NDArray[np.int64],
    second: NDArray[np.int64] | None,
) -> Estimate:
    """`measure` gives the values [R] of pooled overlaps [R, 3, C]."""
    # A resample that drew only images without a counted pixel would have no IoU.
    counted = first[:, 1].sum(axis=1) > 0
    first, second = first[counted], None if second is None else second[counted]
    n = len(first)
    if n == 0:
        return Estimate(value=0.0, low=-1.0 if second is not None else 0.0, high=1.0, n=0)
    sides = [side.reshape(n, -1).astype(np.float64) for side in (first, second) if side is not None]

    def values(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        found = [
            measure((weights @ side).reshape(-1, *first.shape[1:]).astype(np.int64))
            for side in sides
        ]
        return found[0] - found[1] if len(found) == 2 else found[0]

    drawn = resampled(n, values)
    low, high = np.percentile(drawn[1:], [2.5, 97.5])
    return Estimate(value=float(drawn[0]), low=float(low), high=float(high), n=n)
