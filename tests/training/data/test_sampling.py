"""Every image is shown once an epoch, in an order that seed and epoch decide."""

from itertools import pairwise

import numpy as np
import pytest

from training.data.loader import Loader
from training.data.samples import ArraySamples
from training.data.sampling import (
    Identities,
    InOrder,
    Share,
    Shuffled,
    Windowed,
    balancing_weights,
    class_counts,
)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    sampler, other = Shuffled(20, 8, 1), Shuffled(20, 8, 1)
    first = list(sampler)
    assert sorted(index for indices in first for index in indices) == list(range(20))
    assert list(sampler) == first
    sampler.set_epoch(1)
    other.set_epoch(1)
    assert list(sampler) == list(other) != first


@pytest.mark.parametrize(("count", "sizes"), [(17, [8, 9]), (18, [8, 8, 2]), (1, [1]), (8, [8])])
def test_single_image_never_makes_a_batch_beside_others(count: int, sizes: list[int]) -> None:
    sampler = Shuffled(count, 8, 0)
    assert [len(batch) for batch in sampler] == sizes
    assert len(sampler) == len(sizes)


def test_processes_share_every_batch() -> None:
    whole = list(Shuffled(32, 8, 1))
    shares = [list(Shuffled(32, 8, 1, Share(rank, 2))) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert sorted(first + second) == sorted(batch)
        assert len(first) == len(second) == 4


def test_processes_make_as_many_steps_where_images_do_not_divide() -> None:
    shares = [list(Shuffled(19, 8, 1, Share(rank, 2))) for rank in range(2)]
    assert [len(batch) for batch in shares[0]] == [len(batch) for batch in shares[1]]
    shown = [index for share in shares for batch in share for index in batch]
    assert set(shown) == set(range(19))
    assert len(shown) == 20


def test_validation_image_is_measured_by_one_process() -> None:
    shares = [list(InOrder(19, 8, Share(rank, 2))) for rank in range(2)]
    shown = [index for share in shares for batch in share for index in batch]
    assert sorted(shown) == list(range(19))
    assert [len(share) for share in shares] == [len(InOrder(19, 8, Share(r, 2))) for r in range(2)]


def test_validation_images_of_processes_one_after_another_are_in_order() -> None:
    shares = [list(InOrder(20, 8, Share(rank, 3))) for rank in range(3)]
    assert [i for share in shares for batch in share for i in batch] == list(range(20))
    assert max(map(len, shares)) == 4


def test_weighted_draws_make_classes_equal() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    weights = balancing_weights(np.bincount(labels))
    assert weights.tolist() == [pytest.approx(1000 / 1800), pytest.approx(5.0)]
    drawn = [index for batch in Shuffled(1000, 50, 1, None, weights[labels]) for index in batch]
    assert len(drawn) == 1000
    assert 400 < labels[drawn].sum() < 600


def test_ignored_pixels_do_not_weigh() -> None:
    masks = np.array([[[0, 0], [1, 255]]], np.uint8)
    counts = class_counts(ArraySamples(np.zeros((1, 2, 2, 3), np.uint8), masks), 2, 255)
    assert counts.tolist() == [2, 1]
    assert balancing_weights(counts).tolist() == [pytest.approx(0.75), pytest.approx(1.5)]


def test_identities_come_with_several_pictures_each() -> None:
    labels = np.repeat(np.arange(6), 5)
    batches = list(Identities(labels, people=4, pictures=2, seed=1))
    assert len(batches) == 3
    for batch in batches:
        people, counts = np.unique(labels[batch], return_counts=True)
        assert len(people) == 4
        assert (counts == 2).all()
        assert len(set(batch)) == 8
    assert set(labels[np.concatenate(batches)]) == set(range(6))


def test_identity_of_few_pictures_shows_some_twice() -> None:
    labels = np.array([0, 1, 1, 1])
    (batch,) = Identities(labels, people=2, pictures=2, seed=1)
    assert sorted(labels[batch]) == [0, 0, 1, 1]


def test_processes_share_the_people_of_a_batch() -> None:
    labels = np.repeat(np.arange(6), 5)
    whole = list(Identities(labels, 4, 2, seed=1))
    shares = [list(Identities(labels, 4, 2, 1, Share(rank, 2))) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert sorted(first + second) == sorted(batch)
        assert len(set(labels[first])) == 2


def test_more_identities_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="people: 3 are wanted, there are 2"):
        Identities(np.array([0, 1]), people=3, pictures=2, seed=1)


GROUPS = [range(25), range(25, 50), range(50, 51), range(51, 67), range(67, 83)]


def test_stream_shows_each_image_once_in_any_number_of_processes() -> None:
    for processes in (1, 2, 3, 7):
        own = [
            Windowed(GROUPS, 2 * processes, 1, window=20, share=Share(rank, processes))
            for rank in range(processes)
        ]
        batches = [list(sampler) for sampler in own]
        assert len({len(each) for each in batches}) == 1
        assert all(len(each) == len(sampler) for each, sampler in zip(batches, own, strict=True))
        assert min(len(batch) for each in batches for batch in each) > 1
        seen = sorted(index for each in batches for batch in each for index in batch)
        assert seen == list(range(83))


def test_one_shard_is_shared_by_its_images() -> None:
    own = [Windowed([range(11)], 4, 1, window=20, share=Share(rank, 2)) for rank in range(2)]
    first, second = ({index for batch in sampler for index in batch} for sampler in own)
    assert (len(first), len(second)) == (5, 6)
    assert first | second == set(range(11))


def test_order_of_a_stream_changes_with_the_epoch_and_stays_in_the_window() -> None:
    sampler = Windowed([range(1000), range(1000, 2000)], 10, 1, window=50)
    first = [index for batch in sampler for index in batch]
    assert first == [index for batch in sampler for index in batch]
    reads = list(sampler.reads())
    place = {index: number for number, index in enumerate(reads)}
    assert max(place[index] - number for number, index in enumerate(first)) < 50
    assert sum(a > b for a, b in pairwise(first)) > 500
    sampler.set_epoch(1)
    assert first != [index for batch in sampler for index in batch]


def test_window_of_one_keeps_the_order() -> None:
    sampler = Windowed([range(10)], 2, 1, window=1)
    assert [index for batch in sampler for index in batch] == list(range(10))


def test_stream_that_goes_on_reads_the_rest_alone() -> None:
    sampler = Windowed(GROUPS, 6, 3, window=20)
    whole = list(sampler)
    reads, batches = sampler.plan(5)
    rest = list(batches)
    assert rest == whole[5:]
    assert sorted(reads) == sorted(index for batch in rest for index in batch)


def test_loader_goes_on_at_the_next_batch() -> None:
    numbers = np.arange(23)
    samples = ArraySamples(np.zeros((23, 1, 1, 3), np.uint8), numbers)
    whole = [targets.tolist() for _, targets in Loader(samples, Shuffled(23, 4, 1))]
    loader = Loader(samples, Shuffled(23, 4, 1))
    batches = iter(loader)
    assert [next(batches)[1].tolist() for _ in range(2)] == whole[:2]
    other = Loader(samples, Shuffled(23, 4, 1))
    other.load_state_dict(loader.state_dict())
    assert [targets.tolist() for _, targets in other] == whole[2:]
    assert [targets.tolist() for _, targets in other] == whole
