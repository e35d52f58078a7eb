"""Folds: every image validates once, classes are spread evenly, the test split stays."""

from collections import Counter

import numpy as np
import pytest

from training.data import load_dataset
from training.data.fold import folded
from training.data.samples import ArraySamples, Dataset
from training.errors import DataError, RecipeError
from training.recipes import Recipe, parse_recipe
from training.recipes.data import Fold


def numbered(start: int, labels: list[int]) -> ArraySamples:
    """Images whose every pixel is their own number."""
    numbers = np.arange(start, start + len(labels), dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (len(labels), 2, 2, 3)).copy()
    return ArraySamples(images, np.array(labels), [str(number) for number in numbers])


@pytest.fixture
def dataset() -> Dataset:
    """Images 0 to 11 train, 12 to 17 validate, 18 and 19 test; of the labels, 12 are 0 and 6 are 1,
    and the label of each image is known from its number."""
    return Dataset(
        name="numbers",
        description="numbers",
        classes=("many", "few"),
        train=numbered(0, [0, 0, 1] * 4),
        val=numbered(12, [0, 0, 1] * 2),
        test=numbered(18, [0, 0]),
    )


def test_every_image_validates_in_exactly_one_fold(dataset: Dataset) -> None:
    validated: list[int] = []
    for index in range(3):
        part = folded(dataset, Fold(index=index, count=3), stratified=True)
        images, labels = part.val.batch(range(len(part.val)))
        numbers = images[:, 0, 0, 0].tolist()
        assert Counter(labels.tolist()) == {0: 4, 1: 2}
        assert part.val.names == [str(number) for number in numbers]
        trained, _ = part.train.batch(range(len(part.train)))
        assert sorted([*numbers, *trained[:, 0, 0, 0].tolist()]) == list(range(18))
        assert part.test is dataset.test
        validated += numbers
    assert sorted(validated) == list(range(18))


def test_batch_keeps_the_order_that_was_asked_for(dataset: Dataset) -> None:
    part = folded(dataset, Fold(index=0, count=3), stratified=True)
    order = np.random.default_rng(0).permutation(len(part.train))
    images, labels = part.train.batch(order)
    numbers = images[:, 0, 0, 0].astype(int)
    assert [str(number) for number in numbers] == [part.train.names[index] for index in order]
    assert labels.tolist() == [int(number % 3 == 2) for number in numbers]
    # From one of the two joined splits alone.
    single, _ = part.train.batch([0])
    assert single[0, 0, 0, 0] == int(part.train.names[0])


def test_fold_needs_an_image_of_each_class(dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"class few has 6 images .* fewer than the 7 folds"):
        folded(dataset, Fold(index=0, count=7), stratified=True)
    assert len(folded(dataset, Fold(index=0, count=9), stratified=False).val) == 2


def test_recipe_names_a_fold() -> None:
    def recipe(fold: object) -> Recipe:
        return parse_recipe(
            {
                "name": "digits",
                "task": "classification",
                "fold": fold,
                "data": {"source": "digits"},
                "transform": {"resize": [8, 8]},
                "model": {"name": "resnet20_cifar"},
                "train": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 1}},
            }
        )

    whole, part = load_dataset(recipe(None)), load_dataset(recipe({"index": 1, "count": 5}))
    assert len(part.train) + len(part.val) == len(whole.train) + len(whole.val)
    assert len(part.test) == len(whole.test)
    assert "part 1 of 5 validates" in part.description
    with pytest.raises(RecipeError, match="fold: index must be under count, 5; got 5"):
        recipe({"index": 5, "count": 5})
