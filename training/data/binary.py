"""Class masks as binary masks: all classes but the first are one foreground."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.data.samples import Dataset, Loaded, Pair, Samples, StreamedSamples, Targets

# The value of ignored pixels, whatever value the source has for them.
IGNORED = 255


class ForegroundSamples:
    """Samples with masks of 0 for class 0, 1 for every other class and 255 for ignored pixels."""

    def __init__(self, samples: Samples, ignore_index: int | None) -> None:
        self._samples = samples
        self._ignore_index = ignore_index
        self.names = samples.names

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        images, masks = self._samples.batch(indices)
        return images, self._foreground(masks)

    def read(self, indices: Sequence[int]) -> Sequence[Loaded | str]:
        return [
            one if isinstance(one, str) else one._replace(target=self._foreground(one.target))
            for one in self._samples.read(indices)
        ]

    def _foreground(self, masks: Targets) -> Targets:
        foreground: Targets = (masks != 0).astype(np.uint8)
        if self._ignore_index is not None:
            foreground[masks == self._ignore_index] = IGNORED
        return foreground


class ForegroundStream(ForegroundSamples):
    """The same of samples that are streamed."""

    def __init__(self, samples: StreamedSamples, ignore_index: int | None) -> None:
        super().__init__(samples, ignore_index)
        self._stream = samples.stream
        self.groups = samples.groups
        self.window = samples.window
        self.held_bytes = samples.held_bytes
        self.class_counts = None

    def stream(self, reads: Iterable[int], batches: Iterable[Sequence[int]]) -> Iterator[Pair]:
        """The batches, as every StreamedSamples."""
        for images, masks in self._stream(reads, batches):
            yield images, self._foreground(masks)


def as_binary(data: Dataset) -> Dataset:
    """The data set with two classes: the first, and all others as one, which is called
    "foreground" unless it is a single class."""
    background, *others = data.classes

    def foreground(samples: Samples) -> Samples:
        if isinstance(samples, StreamedSamples):
            return ForegroundStream(samples, data.ignore_index)
        return ForegroundSamples(samples, data.ignore_index)

    return replace(
        data,
        classes=(background, others[0] if len(others) == 1 else "foreground"),
        train=foreground(data.train),
        val=foreground(data.val),
        test=foreground(data.test),
        ignore_index=None if data.ignore_index is None else IGNORED,
    )
