"""Intersection over union of class maps. Intervals resample images: pixels of one image are not
independent."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation.estimate import RESAMPLES, SEED, Estimate


def class_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class from confusion matrices [..., C, C]; nan for a class
    that is neither in the truth nor predicted."""
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
    class 1 is neither in the truth nor predicted. Intervals as those of mean_iou."""
    return _bootstrap(_pooled_foreground_iou, confusions, None)


def foreground_iou_drop(reference: NDArray[np.int64], candidate: NDArray[np.int64]) -> Estimate:
    """foreground_iou of `reference` less that of `candidate` on the same images, [N, 2, 2] each;
    each resample draws the same images for both."""
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
    """`measure` gives the values [R] of pooled confusion matrices [R, C, C]."""
    # A resample that drew only images without a counted pixel would have no IoU.
    counted = first.sum(axis=(1, 2)) > 0
    first, second = first[counted], None if second is None else second[counted]
    n = len(first)
    if n == 0:
        return Estimate(value=0.0, low=-1.0 if second is not None else 0.0, high=1.0, n=0)

    def pooled(weights: NDArray[np.float64], confusions: NDArray[np.int64]) -> NDArray[np.float64]:
        flat = confusions.reshape(n, -1).astype(np.float64)
        summed = (weights @ flat).reshape(-1, *confusions.shape[1:])
        return measure(summed.astype(np.int64))

    draws = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, n)), draws.astype(np.float64)])
    values = pooled(weights, first)
    if second is not None:
        values = values - pooled(weights, second)
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Estimate(value=float(values[0]), low=float(low), high=float(high), n=n)
