"""Every image is shown once an epoch, in an order that seed and epoch decide."""

import pytest

from training.data.sampling import Shuffled
from training.recipe.train import Train


def test_order_depends_on_seed_and_epoch_alone() -> None:
    config = Train.model_validate(
        {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 1}}
    )
    sampler, other = Shuffled(20, config, 1), Shuffled(20, config, 1)
    first = list(sampler)
    assert sorted(index for indices in first for index in indices) == list(range(20))
    assert list(sampler) == first
    sampler.set_epoch(1)
    other.set_epoch(1)
    assert list(sampler) == list(other) != first


@pytest.mark.parametrize(("count", "sizes"), [(17, [8, 9]), (18, [8, 8, 2]), (1, [1]), (8, [8])])
def test_single_image_never_makes_a_batch_beside_others(count: int, sizes: list[int]) -> None:
    config = Train.model_validate(
        {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 1}}
    )
    sampler = Shuffled(count, config, 0)
    assert [len(batch) for batch in sampler] == sizes
    assert len(sampler) == len(sizes)
