"""Samplers: the images of each batch, and their order.

Batches depend on the seed and the epoch alone, so that a resumed run continues as it would have.
Where several processes train together, each gets its `Share` of every batch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from serving.base.machine.progress import Progress
from training.data.changed_targets import ChangedTargets
from training.data.readers import Targets
from training.data.samples import SAMPLED_IMAGES, FileSamples, Samples, StreamedSamples

# Images read at a time to count labels; more need more memory.
_READ_AT_ONCE = 64
# Images from which the first of a stream are drawn, while its window grows by one an image. More
# mix the first batches better, fewer begin sooner.
_FIRST_WINDOW = 512
# Random numbers drawn at a time.
_DRAWS = 4096


@dataclass(frozen=True)
class Share:
    """Process `rank` of `processes`, counted from 0."""

    rank: int = 0
    processes: int = 1


def labels_of(samples: Samples) -> NDArray[np.int64]:
    """The classes of all samples of a classification, int64 [N]. Files that are not in memory are
    decoded for it."""
    return np.concatenate(list(_targets(samples))).astype(np.int64)


def class_counts(samples: Samples, classes: int, ignore_index: int | None) -> NDArray[np.int64]:
    """Numbers of images, or of pixels of masks, of each class that are not ignored, int64
    [classes]. Of a stream of masks they are those of SAMPLED_IMAGES, evenly spread."""
    known = known_counts(samples)
    if known is not None:
        return known
    counts = np.zeros(classes, np.int64)
    for targets in _targets(samples):
        counted = targets[targets != ignore_index] if ignore_index is not None else targets.ravel()
        counts += np.bincount(counted, minlength=classes)
    return counts


def _targets(samples: Samples) -> Iterator[Targets]:
    streamed = isinstance(samples, StreamedSamples)
    rows = spread_rows(len(samples), SAMPLED_IMAGES if streamed else len(samples))
    with Progress("counting the classes", len(rows)) as progress:
        for start in range(0, len(rows), _READ_AT_ONCE):
            targets = samples.batch(rows[start : start + _READ_AT_ONCE])[1]
            yield targets
            progress.advance(len(targets))


def balancing_weights(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """N / (C · N_c) of each class from N_c, the numbers of its labels, float64 [C]: 1 where all are
    equally frequent; a class without labels counts as one."""
    return np.asarray(counts.sum() / (len(counts) * np.maximum(counts, 1)))


def known_counts(samples: Samples) -> NDArray[np.int64] | None:
    """Images of each class, int64 [classes], where the source counted them."""
    if isinstance(samples, StreamedSamples | FileSamples | ChangedTargets):
        return samples.class_counts
    return None


def spread_rows(total: int, count: int) -> NDArray[np.intp]:
    """`count` of `total` numbers, evenly spread; all of them where there are no more."""
    return np.linspace(0, total - 1, min(total, count)).astype(np.intp)


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


class Windowed(Sampler[list[int]]):
    """Every image once an epoch, for samples that are read in order: shards (`groups`) follow each
    other in an order that changes each epoch, and the next image is drawn from a window of the
    images that come next. The window grows from _FIRST_WINDOW, so that an epoch begins at once.

    Processes share the images of an epoch by stretches of that order, which differ by one image at
    most: a shard lies in two of them only where a border cuts it. All have the same number of
    batches, that of the smallest stretch; a last image more, and a last batch of one, join the
    batch before.
    """

    def __init__(
        self,
        groups: Sequence[range],
        batch_size: int,
        seed: int,
        window: int,
        share: Share | None = None,
    ) -> None:
        self.share = share or Share()
        self.groups = groups
        self.count = sum(map(len, groups))
        self.batch_size = batch_size // self.share.processes
        self.seed = seed
        self.window = window
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        batches, rest = divmod(self.count // self.share.processes, self.batch_size)
        return max(1, batches + (rest > 1))

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch, self.share.rank])
        shuffled = _shuffled(self.reads(), self.window, rng)
        for _ in range(len(self) - 1):
            yield list(islice(shuffled, self.batch_size))
        yield list(shuffled)

    def reads(self) -> Iterator[int]:
        """This process's images of the epoch in the order in which they are read."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.groups))
        first, end = (
            rank * self.count // self.share.processes
            for rank in (self.share.rank, self.share.rank + 1)
        )
        place = 0
        for number in order:
            group = self.groups[number]
            yield from group[max(0, first - place) : max(0, end - place)]
            place += len(group)

    def plan(self, first: int) -> tuple[Iterator[int], Iterator[list[int]]]:
        """The batches from number `first` on, and their images in the order of reading."""
        batches = iter(self)
        done = np.zeros(self.count, np.bool_)
        for batch in islice(batches, first):
            done[batch] = True
        return (index for index in self.reads() if not done[index]), batches


def _shuffled(reads: Iterator[int], window: int, rng: np.random.Generator) -> Iterator[int]:
    held = list(islice(reads, min(window, _FIRST_WINDOW)))
    while held:
        for draw in rng.random(_DRAWS).tolist():
            if not held:
                return
            place = int(draw * len(held))
            held[place], held[-1] = held[-1], held[place]
            yield held.pop()
            held += islice(reads, min(2, window - len(held)))


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

    def plan(self, first: int) -> tuple[Iterator[int], Iterator[list[int]]]:
        """As Windowed.plan."""
        return iter(self.own[first * self.batch_size :]), islice(self, first, None)


Batches = Shuffled | Windowed | Identities | InOrder
