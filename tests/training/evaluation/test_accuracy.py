"""The figures by which answers are judged: drops of classes, and chance."""

import numpy as np
import pytest

from serving.base.task import Measure
from training.evaluation.accuracy import chance_of, class_drops
from training.evaluation.network_answers import Answers, Embedded


def answers(confusion: list[list[int]]) -> Answers:
    none = np.zeros(0, np.float64)
    return Answers(none, none.astype(np.float32), none, np.array(confusion, np.int64))


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


@pytest.mark.parametrize(
    ("measure", "confusion", "chance"),
    [
        # 30 of 40 images are of the first class, whatever was answered.
        ("top1", [[0, 30], [5, 5]], 0.75),
        # All pixels as the first class: its IoU is 30 of 40, the other's 0; a third is nowhere.
        ("miou", [[20, 10, 0], [0, 10, 0], [0, 0, 0]], 0.375),
        # All pixels as foreground: 10 of 40 are.
        ("iou", [[30, 0], [0, 10]], 0.25),
        # Nothing to find: finding nothing is perfect.
        ("iou", [[40, 0], [0, 0]], 1.0),
        ("top1", [[7, 0], [0, 0]], 1.0),
    ],
)
def test_chance_is_the_best_constant_answer(
    measure: Measure, confusion: list[list[int]], chance: float
) -> None:
    assert chance_of(measure, answers(confusion)) == pytest.approx(chance)


def test_chance_of_identities_is_the_share_of_who_is_shown_most() -> None:
    people = np.array([0, 0, 0, 1, 1, 2, 2])
    embedded = Embedded(
        np.zeros((7, 2), np.float32), people, np.array([1, 2, 4, 6]), np.array([0, 0, 3, 5])
    )
    none = np.zeros(0, np.float64)
    found = Answers(
        none, none.astype(np.float32), none, np.zeros((0, 0), np.int64), embedded=embedded
    )
    assert chance_of("rank1", found) == 0.5
