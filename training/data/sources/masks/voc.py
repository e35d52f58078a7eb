"""Folders in PASCAL VOC's layout, with the splits in lists."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.base.errors import quoted
from serving.base.files import read_file
from serving.base.folders import IMAGE_SUFFIXES, split_named, why_no_folder
from serving.base.text import NotText, decode_utf8, lines_of
from serving.images.masks.folders import CLASSES_FILE, MaskedImage, files_by_stem
from serving.images.masks.rules import IGNORED, MaskRule
from serving.images.masks.settings import mask_rule
from serving.images.masks.tables import USUAL_FILES
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.masks.dataset import masked_dataset, settings_of
from training.errors import DataError, data_errors
from training.recipes.masks import VocData

# The colour, 0xRRGGBB, of objects' borders in VOC's masks, which are ignored.
_BORDER = np.uint32(0xE0E0C0)

IMAGES, MASKS = "JPEGImages", "SegmentationClass"


@data_errors()
def voc_folder(data: VocData, transform: EvalTransform) -> Dataset:
    """ROOT/JPEGImages/NAME.jpg with ROOT/SegmentationClass/NAME.png, as far as the lists of
    ROOT/ImageSets/Segmentation name them; val is test where there is no test list with masks.

    Masks are read as the recipe says, else by a table or list of classes in the root, else by VOC's
    own table. Raises DataError naming the folder, list or files that are missing or broken.
    """
    root = data.root
    for folder in (root, root / IMAGES, root / MASKS):
        if not folder.is_dir():
            raise DataError(
                f"data.root: {folder}: {why_no_folder(folder)}; expected {IMAGES}/ and {MASKS}/"
            )
    given, notes = _listed(data)
    if data.test == "test" and "test" not in given and "val" in given:
        data = data.model_copy(update={"test": "val"})
    said = settings_of(data)
    unsaid = (said.colours, said.values, said.classes, said.threshold) == (None,) * 4
    if unsaid and not any((root / name).is_file() for name in (CLASSES_FILE, *USUAL_FILES)):
        said = replace(said, colours="voc")
    rule = mask_rule(said, [root], [pair.mask for pairs in given.values() for pair in pairs])
    return masked_dataset(
        given, _with_borders(rule), data, transform, f"VOC folder {root.name}", notes=notes
    )


def _with_borders(rule: MaskRule) -> MaskRule:
    """The rule of a table of colours with VOC's border, ignored, where the table leaves it out, as
    those of annotation tools do."""
    place = int(np.searchsorted(rule.keys, _BORDER))
    if not len(rule.keys) or _BORDER in rule.keys:
        return rule
    return replace(
        rule,
        keys=np.insert(rule.keys, place, _BORDER),
        key_classes=np.insert(rule.key_classes, place, IGNORED),
    )


def _listed(data: VocData) -> tuple[dict[str, list[MaskedImage]], tuple[str, ...]]:
    """The images of each list that is called as a split, and notes on lists that are passed
    over: no image of them has a mask."""
    folder = data.root / data.sets
    lists = {
        split: file
        for file in (sorted(folder.glob("*.txt")) if folder.is_dir() else ())
        if (split := split_named(file.stem))
    }
    if "train" not in lists:
        raise DataError(f"{folder}: no list train.txt; data.sets says where the lists are")
    images = files_by_stem(data.root / IMAGES, IMAGE_SUFFIXES)
    masks = files_by_stem(data.root / MASKS)
    given: dict[str, list[MaskedImage]] = {}
    notes = []
    for split, file in lists.items():
        names = _names(file)
        if strange := [name for name in names if name not in images]:
            raise DataError(f"{file}: no image {quoted(strange[0])} ({len(strange)} in all)")
        without = [name for name in names if name not in masks]
        if names and len(without) == len(names) and split != "train":
            notes.append(f"{split} is left out: none of its {len(names)} images has a mask")
            continue
        if without:
            raise DataError(f"{file}: no mask for {quoted(without[0])} ({len(without)} in all)")
        given[split] = [MaskedImage(images[name], masks[name]) for name in names]
    return given, tuple(notes)


def _names(file: Path) -> list[str]:
    """The first word of each line: lists of one class of VOC have a 1 or -1 behind it."""
    try:
        text = decode_utf8(file, read_file(file))
    except NotText as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    return [line.split()[0] for line in lines_of(text) if line.strip()]
