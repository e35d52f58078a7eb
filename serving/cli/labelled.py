"""Labelled folders of `convserve evaluate`, with labels as indices into the model's classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serving.base.errors import InvalidInput
from serving.base.folders import (
    LabelledListing,
    list_class_folders,
    list_images,
    split_named,
    told,
    visible_folders,
    why_no_folder,
)
from serving.images.masks.folders import (
    IMAGE_FOLDERS,
    MaskedListing,
    MaskNames,
    list_masked_images,
)
from serving.images.masks.rules import ClassMap, MaskRule
from serving.images.masks.settings import MaskSettings, mask_rule

_ANY_NAMES = MaskNames()
_NOTHING_SAID = MaskSettings()


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
    _require_folder(root)
    numbers = {name: number for number, name in enumerate(classes)}
    found = list_class_folders(root)
    if not set(found.images) & set(classes):
        _refuse_splits(root, "a class", list(found.images))
    for name in found.images:
        if name not in numbers:
            raise InvalidInput(
                f"{root / name}: {name!r} is not a class of the model; "
                f"its classes are {_shortened(classes)}{_other_layout(root)}"
            )
    images = [
        LabelledImage(path, numbers[name]) for name, paths in found.images.items() for path in paths
    ]
    if not images:
        raise InvalidInput(
            f"{root}: expected one folder of images a class, found no images{_besides(found)}"
            f"{_other_layout(root)}"
        )
    return images, found.left_out


def identity_folders(root: Path) -> tuple[list[LabelledImage], list[str], Counter[str]]:
    """Every image below root/IDENTITY/, the names of the identities by label, and the number of
    other files by their ending.

    Raises InvalidInput where there are no images, or where the folders are splits.
    """
    _require_folder(root)
    found = list_class_folders(root)
    _refuse_splits(root, "an identity", list(found.images))
    names = [name for name, paths in found.images.items() if paths]
    if not names:
        raise InvalidInput(
            f"{root}: expected one folder of images an identity, found no images{_besides(found)}"
        )
    images = [
        LabelledImage(path, label)
        for label, name in enumerate(names)
        for path in found.images[name]
    ]
    return images, names, found.left_out


# Files and folders of layouts that a build alone reads.
_LISTINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_VOC_LISTS = "ImageSets"


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise InvalidInput(f"{root}: {why_no_folder(root)}{_other_layout(root)}")


def _other_layout(root: Path) -> str:
    """The way to folders from a table, from COCO's, labelme's or VOC's layout, as the end of a
    message; empty where `root` has none of them."""
    places = (root, root / "annotations")
    try:
        files = [root, *(file for place in places if place.is_dir() for file in place.iterdir())]
    except OSError:  # the message that this ends says why
        return ""
    if not any(file.suffix.lower() in _LISTINGS or file.name == _VOC_LISTS for file in files):
        return ""
    return "; `convserve extract RECIPE OUT` writes the test images of a build's source as folders"


def _refuse_splits(root: Path, wanted: str, names: Sequence[str]) -> None:
    """Raises InvalidInput where all folders in `root` are splits of a data set."""
    if names and all(map(split_named, names)) and any(visible_folders(root / x) for x in names):
        raise InvalidInput(
            f"{root}: expected a folder {wanted}, got the splits {', '.join(names)}; "
            "evaluate one of them"
        )


def _besides(found: LabelledListing) -> str:
    return f"; files left out: {told(found.left_out)}" if found.left_out else ""


def mask_pairs(root: Path, said: MaskNames = _ANY_NAMES) -> MaskedListing:
    """Every image of `root` with its mask; see list_masked_images. Where images/ holds a folder a
    split, one of these folders may be the root instead.

    Raises InvalidInput where a mask is missing, where there are no images, or where `root` holds
    several splits.
    """
    _require_folder(root)
    if _is_inner_split(root):
        whole = list_masked_images(root.parent.parent, said)
        pairs = [pair for pair in whole.pairs if pair.path.is_relative_to(root)]
        found = whole._replace(pairs=pairs, left_out=list_images(root).left_out)
    else:
        if not (root / "images").is_dir():
            _refuse_splits(root, "images/", [folder.name for folder in visible_folders(root)])
        try:
            found = list_masked_images(root, said)
        except InvalidInput as error:
            raise InvalidInput(f"{error}{_other_layout(root)}") from error
        inner = [folder for folder in visible_folders(found.images) if split_named(folder.name)]
        if "train" in (split_named(folder.name) for folder in inner) and len(inner) > 1:
            raise InvalidInput(
                f"{found.images} holds the splits {', '.join(x.name for x in inner)}; "
                f"evaluate one of them, such as {inner[0]}"
            )
    if not found.pairs:
        left_out = f"; files left out: {told(found.left_out)}" if found.left_out else ""
        raise InvalidInput(f"{root}: found no images with masks{left_out}")
    return found


def _is_inner_split(root: Path) -> bool:
    return root.parent.name.lower() in IMAGE_FOLDERS and split_named(root.name) is not None


class MaskReading(NamedTuple):
    """From masks to the classes of a model.

    rule: what the pixels of a mask stand for.
    numbers: int16 [classes of the rule + 2]: the model's class of each, -1 for pixels that do not
        count; the last two places are those of UNNAMED and IGNORED.
    """

    rule: MaskRule
    numbers: ClassMap

    def read(self, file: Path) -> tuple[ClassMap, list[str]]:
        """The model's class of each pixel, -1 for those that do not count, int16 [H, W], and values
        that nobody named."""
        found, unnamed = self.rule.read(file)
        return self.numbers[found], unnamed


def mask_reading(
    root: Path, classes: Sequence[str], masks: Sequence[Path], said: MaskSettings = _NOTHING_SAID
) -> MaskReading:
    """How the masks of `root` are read for a model of `classes`.

    What is said decides; else classes.txt, or a table of colours, in `root` or beside it (for a
    split in images/, the file beside images/), which names the values by line; else the values are
    the model's classes. Where a list names all of the model's classes and one more at the end, that
    one is ignored. Of two classes, the second is the value 255 where `masks` hold 0 and 255 alone.
    Raises InvalidInput where the file cannot be read or names a class that the model does not have.
    """
    places = [root, root.parent]
    if _is_inner_split(root):
        places.append(root.parent.parent)
    rule = mask_rule(said, places, masks, named=classes)
    ignored = rule.classes[:-1] == tuple(classes) and len(rule.classes) > 1
    named = rule.classes[:-1] if ignored else rule.classes
    for name in named:
        if name not in classes:
            raise InvalidInput(
                f"{rule.source}: {name!r} is not a class of the model; "
                f"its classes are {_shortened(classes)}"
            )
    numbers = [list(classes).index(name) for name in named]
    numbers += [-1] * (len(rule.classes) - len(numbers))
    return MaskReading(rule, np.array([*numbers, -1, -1], np.int16))


def _shortened(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:10])
    return f"{shown}, ... ({len(classes)} in all)" if len(classes) > 10 else shown
