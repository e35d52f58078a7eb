"""Cuts are disjoint, stratified and repeatable."""

import numpy as np
import pytest

from training.data.split import complete, cut
from training.errors import DataError


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


def completed(given: dict[str, list[int]], test: str = "test") -> dict[str, list[int]]:
    parts, _ = complete(
        given, lambda item: item % 2, val_fraction=0.1, test_fraction=0.2, split_seed=0, test=test
    )
    return parts


def test_given_splits_stay_and_the_missing_come_from_train() -> None:
    parts = completed({"train": list(range(40)), "test": [100, 101]})
    assert parts["test"] == [100, 101]
    assert sorted(parts["train"] + parts["val"]) == list(range(40))
    assert sum(item % 2 for item in parts["val"]) == len(parts["val"]) / 2


@pytest.mark.parametrize(
    ("given", "test", "expected"),
    [
        ({"train": [1, 2]}, "val", "there is no such split"),
        ({"train": [1, 2], "val": [3], "test": [4]}, "val", "there is a test split too"),
        ({"train": [1, 2, 3], "test": []}, "test", "no images for test"),
        ({"train": []}, "test", "no images for train"),
    ],
)
def test_splits_that_cannot_be_are_refused(
    given: dict[str, list[int]], test: str, expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        completed(given, test)
