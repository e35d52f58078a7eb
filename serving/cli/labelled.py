"""Labelled folders of `convserve evaluate`, with labels as indices into the model's classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.base.errors import InvalidInput
from serving.base.folders import list_class_folders, split_named, visible_folders
from serving.images.masks import (
    CLASSES_FILE,
    WHITE,
    MaskedListing,
    are_black_and_white,
    list_masked_images,
    read_classes,
)


@dataclass(frozen=True)
class LabelledImage:
    """A file and the index of its class in the model's list of classes."""

    path: Path
    label: int


def class_folders(root: Path, classes: Sequence[str]) -> tuple[list[LabelledImage], Counter[str]]:
    """Every image below root/CLASS/, where CLASS is one of the model's classes, and the number of
    other files by their ending.

    Raises InvalidInput for a folder that is no class of the model, or where there are no images.
    """
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder")
    numbers = {name: number for number, name in enumerate(classes)}
    found = list_class_folders(root)
    for name in found.images:
        if name not in numbers:
            raise InvalidInput(
                f"{root / name}: {name!r} is not a class of the model; "
                f"its classes are {_shortened(classes)}"
            )
    images = [
        LabelledImage(path, numbers[name]) for name, paths in found.images.items() for path in paths
    ]
    if not images:
        raise InvalidInput(f"{root}: expected one folder of images a class, found no images")
    return images, found.left_out


def identity_folders(root: Path) -> tuple[list[LabelledImage], list[str], Counter[str]]:
    """Every image below root/IDENTITY/, the names of the identities by label, and the number of
    other files by their ending.

    Raises InvalidInput where there are no images, or where the folders are splits.
    """
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder")
    found = list_class_folders(root)
    if all(map(split_named, found.images)) and any(visible_folders(root / x) for x in found.images):
        raise InvalidInput(
            f"{root}: expected a folder an identity, got the splits {', '.join(found.images)}; "
            "evaluate one of them"
        )
    names = [name for name, paths in found.images.items() if paths]
    if not names:
        raise InvalidInput(f"{root}: expected one folder of images an identity, found no images")
    images = [
        LabelledImage(path, label)
        for label, name in enumerate(names)
        for path in found.images[name]
    ]
    return images, names, found.left_out


def mask_pairs(root: Path) -> MaskedListing:
    """Every root/images/NAME.* with its root/masks/NAME.png.

    Raises InvalidInput where a mask is missing, or where there are no images.
    """
    found = list_masked_images(root)
    if not found.pairs:
        raise InvalidInput(f"{root / 'images'}: found no images")
    return found


def class_mapping(
    root: Path, classes: Sequence[str], masks: Sequence[Path]
) -> tuple[NDArray[np.int64], str]:
    """The model's class of each of 256 mask values, -1 for values that do not count, and a note
    where the values needed an interpretation.

    classes.txt, in `root` or beside it, names the values by line; without it they are the model's.
    Where it names all of the model's classes and one more at the end, that one is ignored. Where
    there are two classes and `masks` hold 0 and 255 alone, 255 is the second class.
    Raises InvalidInput where the file cannot be read or names a class that the model does not have.
    """
    files = (root / CLASSES_FILE, root.parent / CLASSES_FILE)
    file = next((file for file in files if file.exists()), None)
    names = list(classes) if file is None else read_classes(file)
    mapping = np.full(256, -1, np.int64)
    if file is None or names[:-1] == list(classes):
        mapping[: len(classes)] = np.arange(min(256, len(classes)))
    else:
        for value, name in enumerate(names[:256]):
            if name not in classes:
                raise InvalidInput(
                    f"{file}: {name!r} is not a class of the model; "
                    f"its classes are {_shortened(classes)}"
                )
            mapping[value] = list(classes).index(name)
    if len(names) == 2 and are_black_and_white(masks):
        mapping[WHITE] = mapping[1]
        return mapping, f"masks hold 0 and {WHITE} alone: {WHITE} is {names[1]!r}"
    return mapping, ""


def _shortened(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:10])
    return f"{shown}, ... ({len(classes)} in all)" if len(classes) > 10 else shown
