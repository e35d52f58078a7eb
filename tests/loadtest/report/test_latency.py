import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from loadtest.report import latency
from loadtest.report.latency import (
    _bucket,
    histogram,
    instability,
    interval,
    percentiles,
    resampled,
)


def test_buckets_are_those_of_the_library() -> None:
    shape = HdrHistogram(1, 3_600_000_000, 3)
    values = np.unique(np.geomspace(1, 3_600_000_000, 5000).astype(np.int64))
    near_powers = np.array([2**e + d for e in range(1, 31) for d in (-1, 0, 1)])
    values = np.concatenate([values, near_powers])
    assert _bucket(values).tolist() == [shape._counts_index_for(v) for v in values.tolist()]


def test_percentiles_are_exact_to_three_digits() -> None:
    values = np.random.default_rng(0).lognormal(-5, 1, 20_000)
    found = percentiles(histogram(values))
    for percentile, value in found.items():
        assert value == pytest.approx(float(np.percentile(values, percentile)), rel=0.005)


def test_nothing_has_no_percentiles() -> None:
    assert percentiles(histogram(np.empty(0))) == {}


def test_histograms_add_up() -> None:
    random = np.random.default_rng(0)
    one, other = random.exponential(0.01, 3000), random.exponential(0.05, 2000)
    together = histogram(one)
    together.add(histogram(other))
    assert percentiles(together) == percentiles(histogram(np.concatenate([one, other])))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    truth = 0.01 * np.log(100)
    held = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        due = np.sort(random.uniform(0, 10, 4000))
        samples = resampled(due, random.exponential(0.01, 4000), (99.0,), seed)[:, 0]
        low, high = interval(samples)
        held += low <= truth <= high
    assert held >= 50


def test_an_interval_knows_that_requests_depend_on_each_other() -> None:
    random = np.random.default_rng(1)
    due = np.arange(4000) / 400
    # Slow stretches, as a queue makes them, against the same latencies shuffled.
    slow = np.where((due % 5) < 0.25, 0.1, 0.01)
    together = resampled(due, slow, (95.0,))[:, 0]
    shuffled = resampled(due, random.permutation(slow), (95.0,))[:, 0]
    assert np.ptp(interval(together)) >= np.ptp(interval(shuffled))


def test_p99_of_few_requests_is_not_stable() -> None:
    assert instability(np.arange(100.0), np.ones(100)) == float("inf")


def test_p99_of_steady_latency_is_stable() -> None:
    due = np.arange(5000) / 100
    assert instability(due, np.random.default_rng(0).normal(0.01, 0.0005, 5000)) < 0.05
    assert latency.CONFIDENCE == 0.95
