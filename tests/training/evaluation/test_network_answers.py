"""What is compared between two networks' answers."""

import numpy as np
import pytest

from training.evaluation.accuracy import class_drops
from training.evaluation.network_answers import Answers


def answers(confusion: list[list[int]]) -> Answers:
    none = np.zeros(0, np.float64)
    return Answers(none, none.astype(np.float32), none, np.array([confusion], np.int64))


def test_classes_that_lost_most_are_named_worst_first() -> None:
    before = answers([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    after = answers([[7, 3, 0], [5, 5, 0], [0, 0, 0]])
    drops = class_drops("top1", before, after, ["cat", "dog", "absent"])
    assert list(drops) == ["dog", "cat"]
    assert drops["dog"] == pytest.approx(0.5)
    assert drops["cat"] == pytest.approx(0.1)
    # IoU of cat: 8 of 10, then 7 of 15; of dog: 10 of 12, then 5 of 13.
    drops = class_drops("miou", before, after, ["cat", "dog", "absent"])
    assert drops["cat"] == pytest.approx(0.8 - 7 / 15)
    assert drops["dog"] == pytest.approx(10 / 12 - 5 / 13)


def test_people_have_too_few_images_each() -> None:
    assert class_drops("rank1", answers([[1]]), answers([[0]]), ["s01"]) == {}
