"""Samplers: the images of each batch, and their order.

Batches depend on the seed and the epoch alone, so that a resumed run continues as it would have.
Where several processes train together, each gets its `Share` of every batch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from serving.base.machine.progress import Progress
from training.data.samples import Samples, Targets

# Images read at a time to count labels; more need more memory.
_READ_AT_ONCE = 64


@dataclass(frozen=True)
class Share:
    """Process `rank` of `processes`, counted from 0."""

    rank: int = 0
    processes: int = 1


def loader(samples: Samples, sampler: Sampler[list[int]]) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of samples as tensors; `sampler` gives the indices of a whole batch at a time."""
    return DataLoader(_Indices(samples), batch_size=None, sampler=sampler)


def labels_of(samples: Samples) -> NDArray[np.int64]:
    """The classes of all samples of a classification, int64 [N]. Files that are not in memory are
    decoded for it."""
    return np.concatenate(list(_targets(samples))).astype(np.int64)


def class_counts(samples: Samples, classes: int, ignore_index: int | None) -> NDArray[np.int64]:
    """Numbers of images, or of pixels of masks, of each class that are not ignored, int64
    [classes]."""
    counts = np.zeros(classes, np.int64)
    for targets in _targets(samples):
        counted = targets[targets != ignore_index] if ignore_index is not None else targets.ravel()
        counts += np.bincount(counted, minlength=classes)
    return counts


def _targets(samples: Samples) -> Iterator[Targets]:
    with Progress("counting the classes", len(samples)) as progress:
        for start in range(0, len(samples), _READ_AT_ONCE):
            targets = samples.batch(range(start, min(start + _READ_AT_ONCE, len(samples))))[1]
            yield targets
            progress.advance(len(targets))


def balancing_weights(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """N / (C · N_c) of each class from N_c, the numbers of its labels, float64 [C]: 1 where all are
    equally frequent; a class without labels counts as one."""
    return np.asarray(counts.sum() / (len(counts) * np.maximum(counts, 1)))


class _Indices(Dataset[tuple[Tensor, Tensor]]):
    """Samples for a DataLoader whose sampler gives whole batches of indices."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, targets = self.samples.batch(indices)
        return torch.from_numpy(images), torch.from_numpy(targets)


class Shuffled(Sampler[list[int]]):
    """Every image once an epoch or, with `weights` [count], as many images drawn in proportion to
    them.

    A last batch of one image joins the batch before it, because batch normalisation cannot learn
    from a single image. Where processes cannot share the images evenly, the first are repeated.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        share: Share | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.share = share or Share()
        self.count = count
        self.own = math.ceil(count / self.share.processes)
        self.batch_size = batch_size // self.share.processes
        self.seed = seed
        self.probabilities = None if weights is None else weights / weights.sum()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        batches, rest = divmod(self.own, self.batch_size)
        return max(1, batches + (rest > 1))

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.probabilities is None:
            order = rng.permutation(self.count)
        else:
            order = rng.choice(self.count, self.count, p=self.probabilities)
        processes = self.share.processes
        own = np.resize(order, self.own * processes)[self.share.rank :: processes].tolist()
        for number in range(len(self)):
            last = number == len(self) - 1
            end = self.own if last else (number + 1) * self.batch_size
            yield own[number * self.batch_size : end]


class Identities(Sampler[list[int]]):
    """Batches of `people` classes with `pictures` images of each (P x K, arXiv 1703.07737).

    An epoch has as many images as the data. Classes take turns, in a new order each turn, and so do
    the images of a class. A class with fewer than `pictures` images repeats some in a batch.
    Raises ValueError where there are fewer classes than `people`.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        people: int,
        pictures: int,
        seed: int,
        share: Share | None = None,
    ) -> None:
        self.members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        if len(self.members) < people:
            raise ValueError(f"people: {people} are wanted, there are {len(self.members)}")
        self.people = people
        self.pictures = pictures
        self.seed = seed
        self.share = share or Share()
        self.batches = max(1, len(labels) // (people * pictures))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        turn: list[int] = []
        unseen: dict[int, list[int]] = {person: [] for person in range(len(self.members))}
        for _ in range(self.batches):
            if len(turn) < self.people:
                # The rest of this turn comes first in the next, and nobody is in a batch twice.
                rest = [p for p in rng.permutation(len(self.members)).tolist() if p not in turn]
                turn += rest
            batch, turn = turn[: self.people], turn[self.people :]
            chosen = []
            for person in batch:
                if len(unseen[person]) < self.pictures:
                    # Leftovers are dropped: the new order could bring them twice into the batch.
                    unseen[person] = []
                while len(unseen[person]) < self.pictures:
                    unseen[person] += rng.permutation(self.members[person]).tolist()
                chosen.append(unseen[person][: self.pictures])
                del unseen[person][: self.pictures]
            yield [
                index for own in chosen[self.share.rank :: self.share.processes] for index in own
            ]


class InOrder(Sampler[list[int]]):
    """Batches of indices from first to last, each image in one process only.

    Every process has one stretch of the images, so that answers joined by rank are in the order of
    the images. Ties between equally near images depend on that order.
    """

    def __init__(self, count: int, batch_size: int, share: Share | None = None) -> None:
        share = share or Share()
        first, end = (rank * count // share.processes for rank in (share.rank, share.rank + 1))
        self.own = range(first, end)
        self.batch_size = max(1, batch_size // share.processes)

    def __len__(self) -> int:
        return math.ceil(len(self.own) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.own), self.batch_size):
            yield list(self.own[start : start + self.batch_size])
