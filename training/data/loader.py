"""The loader: reads the batches that a sampler names, ahead of the training loop."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from training.data.samples import ArraySamples, Pair, Samples, StreamedSamples
from training.data.sampling import Batches, InOrder, Windowed

# Batches that are read while one is trained on. More bear a store whose speed varies, and take
# their memory.
_BATCHES_AHEAD = 2


class Loader:
    """Batches of samples as tensors, in the order of a sampler that gives the indices of a whole
    batch at a time; the next batches are read while one is trained on.

    A run that was interrupted in the middle of an epoch goes on at the next batch, by `state_dict`
    and `load_state_dict` as pytorch_lightning calls them.
    """

    def __init__(self, samples: Samples, sampler: Batches) -> None:
        self.samples = samples
        self.sampler = sampler
        # pytorch_lightning asks every loader with a sampler for it.
        self.batch_sampler = None
        self._first = 0
        self._given = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self._first = self._first, 0
        self._given = first
        pairs = _pairs(self.samples, self.sampler, first)
        if not isinstance(self.samples, ArraySamples):
            pairs = _ahead(pairs)
        for images, targets in pairs:
            self._given += 1
            yield torch.from_numpy(images), torch.from_numpy(targets)

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        # At the end of an epoch the next one begins.
        self._first = state["batches"] % len(self)


def _pairs(samples: Samples, sampler: Batches, first: int) -> Iterator[Pair]:
    """The batches of an epoch from number `first` on."""
    if isinstance(samples, StreamedSamples) and isinstance(sampler, Windowed | InOrder):
        return samples.stream(*sampler.plan(first))
    return map(samples.batch, islice(sampler, first, None))


def _ahead(pairs: Iterator[Pair]) -> Iterator[Pair]:
    """The same, of which a thread prepares a few before they are asked for."""
    with ThreadPoolExecutor(1) as worker:
        pending = deque(worker.submit(next, pairs, None) for _ in range(_BATCHES_AHEAD))
        try:
            while (pair := pending.popleft().result()) is not None:
                pending.append(worker.submit(next, pairs, None))
                yield pair
        finally:
            for future in pending:
                future.cancel()
