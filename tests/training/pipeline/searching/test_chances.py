"""What a search gives up: only what its bound rules out."""

import pytest

from training.evaluation.searched import Point, Tried
from training.pipeline.bound import Bound
from training.pipeline.searching.chances import Chances


def tried(drop: float, milliseconds: float) -> Tried:
    point = Point(network="n", size=(8, 8), ratio=0.0, variant="fp32")
    return Tried(point=point, drop=drop, milliseconds=milliseconds)


def test_a_network_slower_than_the_bound_cannot_win() -> None:
    chances = Chances(Bound("latency", 2.0))
    assert chances.is_fast_enough(2.0)
    assert not chances.is_fast_enough(2.5)


def test_a_network_slower_than_one_that_is_accurate_enough_cannot_win() -> None:
    chances = Chances(Bound("drop", 1.0))
    chances.tried.append(tried(0.5, 1.0))
    assert chances.is_fast_enough(1e9)
    chances.tried.append(tried(0.01, 4.0))
    assert not chances.is_fast_enough(5.0)
    assert chances.is_fast_enough(4.0)


def test_measurements_that_differ_by_noise_rule_nothing_out() -> None:
    assert Chances(Bound("latency", 2.0)).is_fast_enough(2.1)


def test_accuracy_is_held_against_the_bound_or_the_best_that_is_fast_enough() -> None:
    by_drop = Chances(Bound("drop", 2.0), reference=0.9)
    assert by_drop.least_accuracy() == pytest.approx(0.88)
    by_latency = Chances(Bound("latency", 2.0), reference=0.9)
    by_latency.tried.append(tried(0.01, 3.0))
    assert by_latency.least_accuracy() == -float("inf")
    by_latency.tried.append(tried(0.05, 1.0))
    assert by_latency.least_accuracy() == pytest.approx(0.85)


def chances_after(*curves: tuple[float, ...]) -> Chances:
    chances = Chances(Bound("drop", 1.0), reference=0.91, told=0.91)
    chances.curves["prune"] += curves
    return chances


def test_trainings_are_stopped_by_what_others_have_made_of_their_errors() -> None:
    # The best of them has left half of the error after its first epoch.
    chances = chances_after((0.1, 0.8, 0.9), (0.1, 0.7, 0.8), (0.2, 0.6, 0.7))
    # A quarter of 0.44 is 0.11, of 0.36 it is 0.09; 0.1 is allowed.
    assert not chances.is_within_reach("prune", 1, 0.56)
    assert chances.is_within_reach("prune", 1, 0.64)
    assert chances.is_within_reach("train", 1, 0.0), "other trainings are judged by their own"


def test_few_trainings_say_nothing() -> None:
    chances = chances_after((0.1, 0.8, 0.9), (0.1, 0.7, 0.8))
    assert chances.is_within_reach("prune", 1, 0.0)


def test_the_best_epoch_counts_where_later_ones_were_worse() -> None:
    chances = chances_after(*[(0.2, 0.6, 0.95, 0.5)] * 3)
    # An eighth of the error, halved.
    assert chances.is_within_reach("prune", 1, 0.0)
    assert not chances.is_within_reach("prune", 2, 0.0)


def test_training_tells_accuracy_on_other_images_than_the_reference() -> None:
    chances = chances_after(*[(0.2, 0.6, 0.8)] * 3)
    assert not chances.is_within_reach("prune", 1, 0.5)
    chances.told = 0.8
    assert chances.is_within_reach("prune", 1, 0.5)
