"""Samples whose targets are changed as they are read."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from training.data.readers import Loaded, Targets
from training.data.samples import Pair, Samples, StreamedSamples

Change = Callable[[Targets], Targets]


class ChangedTargets:
    """Samples with `change` of their targets.

    class_counts: images of each class, int64 [classes], where they are known.
    """

    def __init__(
        self, samples: Samples, change: Change, class_counts: NDArray[np.int64] | None
    ) -> None:
        self.names = samples.names
        self.class_counts = class_counts
        self._samples = samples
        self._change = change

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        images, targets = self._samples.batch(indices)
        return images, self._change(targets)

    def read(self, indices: Sequence[int]) -> Sequence[Loaded | str]:
        return [
            one if isinstance(one, str) else one._replace(target=self._change(one.target))
            for one in self._samples.read(indices)
        ]


class ChangedStream(ChangedTargets):
    """The same of samples that are streamed."""

    def __init__(
        self, samples: StreamedSamples, change: Change, class_counts: NDArray[np.int64] | None
    ) -> None:
        super().__init__(samples, change, class_counts)
        self._stream = samples.stream
        self.groups = samples.groups
        self.window = samples.window
        self.held_bytes = samples.held_bytes

    def stream(self, reads: Iterable[int], batches: Iterable[Sequence[int]]) -> Iterator[Pair]:
        """The batches, as every StreamedSamples."""
        for images, targets in self._stream(reads, batches):
            yield images, self._change(targets)


def with_targets(
    samples: Samples, change: Change, class_counts: NDArray[np.int64] | None = None
) -> Samples:
    """The samples with `change` of their targets; a stream stays one."""
    if isinstance(samples, StreamedSamples):
        return ChangedStream(samples, change, class_counts)
    return ChangedTargets(samples, change, class_counts)
