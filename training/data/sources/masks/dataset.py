"""From images with class maps to a data set, whatever the class maps are made of."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from serving.images.masks.folders import MaskedImage
from serving.images.masks.rules import IGNORED, MORE, UNNAMED, ClassMap, MaskRule, scaled
from serving.images.masks.settings import MaskSettings
from serving.repository.manifest import EvalTransform
from training.data.readers import ImageReader, Targets
from training.data.remarks import Remarks
from training.data.samples import Dataset
from training.data.sources.assemble import assembled
from training.data.sources.image_folder import image_bytes
from training.errors import DataError
from training.recipes.fields import FolderData
from training.recipes.masks import MaskFolderData, MaskRules, VocData

Item = TypeVar("Item")

# The value of ignored pixels where the masks' own values are not the classes.
IGNORE_INDEX = 255
# As many as a class map of 8 bits holds beside the value that is ignored.
MOST_CLASSES = 255


def settings_of(data: MaskRules) -> MaskSettings:
    """What a recipe says about masks, as serving reads it."""
    return MaskSettings(
        data.classes,
        data.colours,
        data.values,
        data.ignore,
        data.ignore_index,
        data.threshold,
        data.tolerance,
        data.palette,
    )


def mask_dataset(
    given: Mapping[str, Sequence[Item]],
    path_of: Callable[[Item], Path],
    class_map: Callable[[Item, tuple[int, int]], ClassMap],
    *,
    data: FolderData,
    transform: EvalTransform,
    classes: Sequence[str],
    remarks: Remarks,
    described: str,
    ignore_index: int | None = IGNORE_INDEX,
    left_out: Mapping[str, int] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """The images of each split, of `path_of`, with their class maps; missing splits are cut at
    random.

    class_map: class or IGNORED of each pixel of an item, int16 [h, w], for an image of (height,
        width); a map of another size is scaled where its shape is the image's.
    Raises DataError, and BrokenFiles naming the files that cannot be used.
    """
    root = data.root
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DataError(f"{root}: expected 2 to {MOST_CLASSES} classes, got {len(classes)}")
    ignored = IGNORE_INDEX if ignore_index is None else ignore_index

    def target(item: Item, size: tuple[int, int]) -> Targets:
        found = class_map(item, size)
        if found.shape != size:
            found = scaled(found, size)
            remarks.add("masks of another size than their images, scaled to it", name_of(item))
        return np.where(found == IGNORED, ignored, found).astype(np.uint8)

    def name_of(item: Item) -> str:
        return path_of(item).relative_to(root).as_posix()

    return assembled(
        given,
        ImageReader(lambda item: image_bytes(path_of(item)), target, transform),
        root=root,
        classes=classes,
        described=described,
        data=data,
        transform=transform,
        name_of=name_of,
        ignore_index=ignore_index,
        left_out=left_out,
        notes=notes,
        remarks=remarks,
    )


def masked_dataset(
    given: Mapping[str, Sequence[MaskedImage]],
    rule: MaskRule,
    data: MaskFolderData | VocData,
    transform: EvalTransform,
    described: str,
    left_out: Mapping[str, int] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Images with mask files that are read by a rule. Raises DataError as mask_dataset does."""
    remarks = Remarks()
    read = _by_rule(rule, data, data.root, remarks)
    return mask_dataset(
        given,
        lambda pair: pair.path,
        lambda pair, size: read(pair.mask),
        data=data,
        transform=transform,
        classes=rule.classes,
        remarks=remarks,
        described=described,
        ignore_index=rule.ignore_index,
        left_out=left_out,
        notes=(*((rule.note,) if rule.note else ()), *notes),
    )


def _by_rule(
    rule: MaskRule, data: MaskRules, root: Path, remarks: Remarks
) -> Callable[[Path], ClassMap]:
    """Reads mask files: class or IGNORED of each pixel. Values that nobody named raise DataError,
    or are ignored where the recipe says so; both are remarked."""

    def read(file: Path) -> ClassMap:
        found, unnamed = rule.read(file)
        if not unnamed:
            return found
        name = file.relative_to(root).as_posix()
        if MORE in unnamed:
            remarks.add(f"masks hold more than {len(unnamed) - 1} values that nobody named", name)
        else:
            for value in unnamed:
                remarks.add(f"masks hold {value}, which nobody named", name)
        if data.unnamed == "error":
            raise DataError(
                f"mask {file.name}: expected {rule.expected}, got [{', '.join(unnamed)}]"
                + (rule.hint or "; unnamed: ignore goes on without these pixels")
            )
        found[found == UNNAMED] = IGNORED
        return found

    return read
