"""Which images make a batch, and in which order.

What a sampler gives depends on the seed and the epoch alone, so that an interrupted run goes on as
it would have. Of several processes that train together, each is given its `Share` of every batch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.data.samples import Samples

_READ_AT_ONCE = 256


@dataclass(frozen=True)
class Share:
    """Process `rank` of `processes`, counted from 0."""

    rank: int = 0
    processes: int = 1


def loader(samples: Samples, sampler: Sampler[list[int]]) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of samples as tensors; `sampler` gives the indices of a whole batch at a time."""
    return DataLoader(_Indices(samples), batch_size=None, sampler=sampler)


def labels_of(samples: Samples) -> NDArray[np.int64]:
    """The targets of all samples: [N], or [N, H, W]. Images that are not in memory are read."""
    starts = range(0, len(samples), _READ_AT_ONCE)
    read = [
        samples.batch(range(start, min(start + _READ_AT_ONCE, len(samples))))[1] for start in starts
    ]
    return np.concatenate(read).astype(np.int64)


def balancing_weights(
    labels: NDArray[np.int64], classes: int, ignore_index: int | None
) -> NDArray[np.float64]:
    """N / (C · N_c) of each class [classes], N and N_c counted over all labels that are not
    ignored: 1 where all are equally frequent. A class that does not occur counts as one label."""
    counted = labels[labels != ignore_index] if ignore_index is not None else labels.ravel()
    counts = np.bincount(counted, minlength=classes)
    return len(counted) / (classes * np.maximum(counts, 1))


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
    """Every image once an epoch or, with `weights` [count], as many drawn in proportion to them.

    A last batch of one image joins the one before it: batch normalisation cannot learn from a
    single image. Where the images cannot be shared out evenly, the first ones are shown again.
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

    An epoch is about as long as it takes to show every image once. Classes come in turn, in a new
    order each turn, and so do the images of a class. A class of fewer images shows some twice in a
    batch. ValueError where there are fewer classes than `people`.
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
                # Whoever is left of this turn leads the next, so that nobody is in a batch twice.
                rest = [p for p in rng.permutation(len(self.members)).tolist() if p not in turn]
                turn += rest
            batch, turn = turn[: self.people], turn[self.people :]
            chosen = []
            for person in batch:
                if len(unseen[person]) < self.pictures:
                    # Not with what is left over: an image could then be in the batch twice.
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

    Every process has a stretch of its own: what they say, put together by rank, is in the order of
    the images, on which the nearest of two at the same distance depends.
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
