"""Splits: their names, and random, seeded cuts of a list of images."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError

Indices = NDArray[np.intp]
Item = TypeVar("Item")

SPLITS = ("train", "val", "test")


def complete(
    given: Mapping[str, Sequence[Item]],
    label_of: Callable[[Item], int],
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    test: str = "test",
) -> tuple[dict[str, list[Item]], str]:
    """All three splits from those that a source has, and a description of the cuts.

    Splits that are missing are cut from train, stratified by label. `test` names the given split
    that is evaluated on; where that is "val", validation images are cut from train. Raises
    DataError where that split is not there, or a split has no images.
    """
    parts = dict(given)
    words = []
    if test != "test":
        if test not in parts:
            raise DataError(
                f"data.test: {test}, but there is no such split; got {', '.join(parts)}"
            )
        if "test" in parts:
            raise DataError(f"data.test: {test}, but there is a test split too")
        parts["test"] = parts.pop(test)
        words.append(f"evaluated on {test}")
    train = list(parts["train"])
    for offset, (name, fraction) in enumerate((("test", test_fraction), ("val", val_fraction))):
        if name in parts:
            continue
        kept, out = cut([label_of(item) for item in train], fraction, split_seed + offset)
        parts[name], train = [train[i] for i in out], [train[i] for i in kept]
        words.append(f"{name} cut from train (seed {split_seed})")
    parts["train"] = train
    for name in SPLITS:
        if not parts[name]:
            few = "" if name in given or name == "train" else "; train has too few to cut some"
            raise DataError(f"no images for {name}{few}")
    return {name: list(parts[name]) for name in SPLITS}, ", ".join(words) or "splits as given"


def cut(labels: Sequence[int], fraction: float, seed: int) -> tuple[Indices, Indices]:
    """(kept, cut out) indices, ascending. `fraction` of each label is cut, rounded up; at least one
    image of each label stays. Where all labels are equal the whole list is cut at random."""
    rng = np.random.default_rng(seed)
    values = np.asarray(labels)
    kept, out = [], []
    for label in np.unique(values):
        members = rng.permutation(np.flatnonzero(values == label))
        count = min(int(np.ceil(len(members) * fraction)), len(members) - 1)
        out.append(members[:count])
        kept.append(members[count:])
    if not kept:
        raise DataError("no images for train")
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(out))
