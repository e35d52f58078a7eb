"""Class masks as binary masks: all classes but the first are one foreground."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.data.samples import Dataset, Loaded, Pair, Samples, Targets

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


def as_binary(data: Dataset) -> Dataset:
    """The data set with two classes: the first, and all others as one, which is called
    "foreground" unless it is a single class."""
    background, *others = data.classes
    return replace(
        data,
        classes=(background, others[0] if len(others) == 1 else "foreground"),
        train=ForegroundSamples(data.train, data.ignore_index),
        val=ForegroundSamples(data.val, data.ignore_index),
        test=ForegroundSamples(data.test, data.ignore_index),
        ignore_index=None if data.ignore_index is None else IGNORED,
    )
