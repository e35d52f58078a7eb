"""From the images of each split that a source has to its data set."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TypeVar

import numpy as np

from serving.base.errors import quoted
from serving.base.folders import told
from serving.repository.manifest import EvalTransform
from training.data.readers import Loaded
from training.data.remarks import Remarks
from training.data.samples import Dataset, FileSamples, read_splits
from training.data.sources.paths import is_text
from training.data.split import complete
from training.errors import BrokenFiles, DataError
from training.recipes.fields import Cut

Item = TypeVar("Item")

# Characters of a class's name; longer ones are captions.
_NAME_LENGTH = 256


def assembled(
    given: Mapping[str, Sequence[Item]],
    load: Callable[[Item], Loaded],
    *,
    root: PurePath | str,
    classes: Sequence[str],
    described: str,
    data: Cut,
    transform: EvalTransform,
    name_of: Callable[[Item], str],
    label_of: Callable[[Item], int] | None = None,
    ignore_index: int | None = None,
    left_out: Mapping[str, int] | None = None,
    notes: tuple[str, ...] = (),
    remarks: Remarks | None = None,
    threads: int | None = None,
) -> Dataset:
    """A data set whose missing splits are cut from train, stratified by `label_of`; images with
    masks have none, and are cut at random.

    root: folder or URL, which begins messages and is called as the data set is.
    Raises DataError, and BrokenFiles naming the files that cannot be used.
    """
    _check_names(classes, root)
    left_out = left_out or {}
    remarks = remarks or Remarks()
    try:
        parts, words = complete(
            given,
            label_of or (lambda item: 0),
            val_fraction=data.val_fraction,
            test_fraction=data.test_fraction,
            split_seed=data.split_seed,
            test=getattr(data, "test", "test"),
        )
    except DataError as error:
        raise DataError(f"{root}: {error}{besides(left_out)}") from error
    height, width = transform.size
    # A mask has one byte a pixel.
    pixel_bytes = transform.channels + (label_of is None)
    try:
        samples = read_splits(
            str(root), parts, name_of, load, height * width * pixel_bytes, threads
        )
    except BrokenFiles as error:
        raise error.told(remarks.lines()) from error
    if label_of is not None:
        for split, part in samples.items():
            if isinstance(part, FileSamples):
                labels = [label_of(item) for item in parts[split]]
                part.class_counts = np.bincount(labels, minlength=len(classes))
    return Dataset(
        name=PurePath(root).name,
        description=f"{described}; {words}",
        classes=tuple(classes),
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        ignore_index=ignore_index,
        left_out=left_out,
        notes=notes,
        remarks=remarks,
    )


def numbered(
    root: PurePath | str,
    given: Mapping[str, Mapping[str, Sequence[Item]]],
    classes: Sequence[str],
    train: PurePath | str,
) -> dict[str, list[tuple[Item, int]]]:
    """By split the images of each class with its number. Raises DataError for a class that `train`,
    the place of the training images, has not."""
    for split, images in given.items():
        if strangers := sorted(set(images) - set(classes)):
            raise DataError(f"{root}: {split}: folders {strangers} are not classes of {train}")
    return {
        split: [
            (item, number) for number, name in enumerate(classes) for item in images.get(name, ())
        ]
        for split, images in given.items()
    }


def besides(left_out: Mapping[str, int]) -> str:
    """The files that are left out, as the end of a message on missing ones."""
    return f"; files left out: {told(left_out)}" if left_out else ""


def _check_names(classes: Sequence[str], root: PurePath | str) -> None:
    """Raises DataError for a class that no file could name, and for two that have one name."""
    if strange := [name for name in classes if not is_text(name)]:
        raise DataError(f"{root}: the class {quoted(strange[0])} is no text in UTF-8")
    if long := [name for name in classes if len(name) > _NAME_LENGTH]:
        raise DataError(
            f"{root}: the class {quoted(long[0])} has {len(long[0]):,} characters; expected at "
            f"most {_NAME_LENGTH}: is it a caption?"
        )
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise DataError(f"{root}: two classes are called {quoted(twice[0])}")
