"""Latency histograms, percentiles and their confidence intervals."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

# Bounds of histograms in microseconds (an hour), and their digits. Histograms with the same bounds
# can be added up.
_LOWEST, _HIGHEST, _DIGITS = 1, 3_600_000_000, 3

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
CONFIDENCE = 0.95
# Resampled runs: more make intervals smoother and take more time.
_RESAMPLES = 1000
# Stretches of time to resample (a block bootstrap), as neighbouring requests meet the same queue:
# more stretches hide that dependence, fewer leave little to draw from.
_SLICES = 40
# Requests beyond a percentile: with fewer, its interval is narrower than the data justify.
_MIN_IN_TAIL = 5


def histogram(latencies: NDArray[Any]) -> HdrHistogram:
    """An HDR histogram (microseconds) of latencies in seconds, of any shape."""
    made = HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)
    values, counts = np.unique(_microseconds(latencies), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        made.record_value(value, count)
    return made


def percentiles(of: HdrHistogram, wanted: Sequence[float] = PERCENTILES) -> dict[float, float]:
    """Latency in seconds by percentile; empty where the histogram is empty."""
    if not of.get_total_count():
        return {}
    found = of.get_percentile_to_value_dict(wanted)
    return {p: found[p] / 1e6 for p in wanted}


def resampled(
    due: NDArray[Any], latencies: NDArray[Any], wanted: Sequence[float], seed: int = 0
) -> NDArray[Any]:
    """Percentiles of resampled runs, float64 [resample, percentile], in seconds.

    Stretches of due time are drawn with replacement and their histograms added up. NaN where
    there is no request.
    """
    if not len(due):
        return np.full((_RESAMPLES, len(wanted)), np.nan)
    span = max(float(due[-1] - due[0]), 1e-9)
    slices = np.minimum(((due - due[0]) / span * _SLICES).astype(int), _SLICES - 1)
    buckets, column = np.unique(_bucket(_microseconds(latencies)), return_inverse=True)
    width = len(buckets)
    counts = np.bincount(slices * width + column, minlength=_SLICES * width)
    random = np.random.default_rng(seed)
    weights = random.multinomial(_SLICES, np.full(_SLICES, 1 / _SLICES), size=_RESAMPLES)
    # In floats, whose matrix product is faster than that of integers.
    sums = (weights.astype(float) @ counts.reshape(_SLICES, width).astype(float)).cumsum(axis=1)
    upper = np.array([_highest(bucket) for bucket in buckets.tolist()]) / 1e6
    found = np.empty((_RESAMPLES, len(wanted)))
    for index, percentile in enumerate(wanted):
        targets = np.maximum(np.round(sums[:, -1] * percentile / 100), 1)
        found[:, index] = upper[np.argmax(sums >= targets[:, None], axis=1)]
    return found


def interval(samples: NDArray[Any]) -> tuple[float, float]:
    """The central interval that holds CONFIDENCE of the samples."""
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(samples, (tail, 100 - tail))
    return float(low), float(high)


def instability(due: NDArray[Any], latencies: NDArray[Any], percentile: float = 99.0) -> float:
    """Half the width of the percentile's interval as a share of the percentile; infinite where
    fewer than _MIN_IN_TAIL requests lie beyond it."""
    if len(due) * (1 - percentile / 100) < _MIN_IN_TAIL:
        return float("inf")
    samples = resampled(due, latencies, (percentile,))[:, 0]
    low, high = interval(samples)
    return (high - low) / 2 / max(float(np.median(samples)), 1e-9)


def _microseconds(latencies: NDArray[Any]) -> NDArray[np.int64]:
    rounded = np.round(np.asarray(latencies, np.float64) * 1e6).astype(np.int64)
    return np.clip(rounded, _LOWEST, _HIGHEST)


@functools.cache
def _shape() -> HdrHistogram:
    return HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)


def _bucket(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index in the histogram of each value: sub-buckets double in width as the value doubles."""
    half = _shape().sub_bucket_half_count
    bits = np.frexp(np.maximum(values, 2 * half - 1).astype(np.float64))[1]
    bucket = bits - int(half).bit_length()
    return np.asarray((bucket + 1) * half + (values >> bucket) - half, np.int64)


def _highest(index: int) -> int:
    """The highest value that has an index."""
    shape = _shape()
    return int(shape.get_highest_equivalent_value(shape.get_value_from_index(index)))
