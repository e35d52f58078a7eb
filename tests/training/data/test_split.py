"""Cuts are disjoint, stratified and repeatable."""

import numpy as np

from training.data.split import cut


def test_cut_is_stratified_and_complete() -> None:
    labels = [0] * 20 + [1] * 10
    kept, out = cut(labels, 0.2, seed=0)
    assert sorted([*kept, *out]) == list(range(30))
    assert np.bincount(np.asarray(labels)[out]).tolist() == [4, 2]


def test_cut_depends_on_the_seed_alone() -> None:
    labels = [0] * 50
    assert cut(labels, 0.3, 1)[1].tolist() == cut(labels, 0.3, 1)[1].tolist()
    assert cut(labels, 0.3, 1)[1].tolist() != cut(labels, 0.3, 2)[1].tolist()


def test_single_image_of_a_class_is_kept_for_training() -> None:
    kept, out = cut([0, 0, 0, 1], 0.5, seed=0)
    assert 3 in kept
    assert 3 not in out
