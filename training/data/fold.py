"""Cross-validation: training and validation images are joined and cut into parts anew."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.data.readers import Loaded
from training.data.samples import Dataset, Pair, Samples
from training.data.sampling import labels_of
from training.errors import DataError
from training.recipes.data import Fold


class JoinedSamples:
    """Some images of two splits; `indices` count through the first and on through the second."""

    def __init__(self, first: Samples, second: Samples, indices: NDArray[np.intp]) -> None:
        names = [*first.names, *second.names]
        self.names = [names[index] for index in indices]
        self._parts = (first, second)
        self._border = len(first)
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        chosen = self._indices[np.asarray(indices, dtype=np.intp)]
        in_second = chosen >= self._border
        pairs = [
            part.batch(chosen[members] - start)
            for part, members, start in zip(
                self._parts, (~in_second, in_second), (0, self._border), strict=True
            )
            if members.any()
        ]
        images, targets = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        # Pairs stand by split; the order of `indices` is restored.
        order = np.argsort(np.argsort(in_second, kind="stable"))
        return images[order], targets[order]

    def read(self, indices: Sequence[int]) -> Sequence[Loaded | str]:
        chosen = self._indices[np.asarray(indices, dtype=np.intp)]
        first, second = self._parts
        found: dict[int, Loaded | str] = {}
        for part, members, start in (
            (first, chosen[chosen < self._border], 0),
            (second, chosen[chosen >= self._border], self._border),
        ):
            loaded = part.read((members - start).tolist())
            found |= dict(zip(members.tolist(), loaded, strict=True))
        return [found[index] for index in chosen.tolist()]


def folded(dataset: Dataset, fold: Fold, *, stratified: bool) -> Dataset:
    """The data set with part `fold.index` of its training and validation images as validation
    split, and the other parts as training split. Every image is in one part; the test split stays.
    `stratified` spreads each class evenly over the parts.

    Raises DataError where there are fewer images, of a class or in all, than parts.
    """
    total = len(dataset.train) + len(dataset.val)
    everything = JoinedSamples(dataset.train, dataset.val, np.arange(total))
    labels = np.zeros(total, np.int64)
    if stratified:
        labels = labels_of(everything)
    values, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < fold.count:
        few = f"class {dataset.classes[values[sizes.argmin()]]}" if stratified else "the data set"
        raise DataError(
            f"fold.count: {few} has {sizes.min()} images for training and validation, fewer than "
            f"the {fold.count} folds"
        )
    # Imported here: folds are rare, and the import takes a second of every command.
    from sklearn.model_selection import StratifiedKFold

    parts = StratifiedKFold(fold.count, shuffle=True, random_state=fold.seed)
    others, part = list(parts.split(labels, labels))[fold.index]
    return replace(
        dataset,
        description=(
            f"{dataset.description}; train and val cut anew, part {fold.index} of {fold.count} "
            f"validates (seed {fold.seed})"
        ),
        train=JoinedSamples(dataset.train, dataset.val, others),
        val=JoinedSamples(dataset.train, dataset.val, part),
    )
