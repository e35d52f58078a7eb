"""Which images make a batch, and in which order."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.data.samples import Samples
from training.recipe.train import Train


def loader(samples: Samples, sampler: Sampler[list[int]]) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of samples as tensors; `sampler` gives the indices of a whole batch at a time."""
    return DataLoader(_Indices(samples), batch_size=None, sampler=sampler)


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
    """Batches of indices in an order that depends on the seed and the epoch alone, so that an
    interrupted run goes on as it would have. A last batch of one image joins the one before it:
    batch normalisation cannot learn from a single image."""

    def __init__(self, count: int, config: Train, seed: int) -> None:
        self.count = count
        self.batch_size = config.batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        batches, rest = divmod(self.count, self.batch_size)
        return max(1, batches + (rest > 1))

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count).tolist()
        for number in range(len(self)):
            last = number == len(self) - 1
            end = self.count if last else (number + 1) * self.batch_size
            yield order[number * self.batch_size : end]


class InOrder(Sampler[list[int]]):
    """Batches of indices from first to last."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count = count
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.count, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.count)))
