"""From images with class maps to a data set, whatever the class maps are made of."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from serving.images.masks.rules import IGNORED, MORE, UNNAMED, ClassMap, MaskRule, scaled
from serving.images.masks.settings import MaskSettings
from serving.images.postprocess import resize_mask
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data.remarks import Remarks
from training.data.samples import Dataset, Loaded, read_splits
from training.data.sources.image_folder import besides, check_names, image_bytes
from training.data.split import complete
from training.errors import BrokenFiles, DataError
from training.recipes.fields import FolderData
from training.recipes.masks import MaskRules

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
    check_names(classes, root)
    try:
        parts, words = complete(
            given,
            lambda item: 0,
            val_fraction=data.val_fraction,
            test_fraction=data.test_fraction,
            split_seed=data.split_seed,
            test=data.test,
        )
    except DataError as error:
        raise DataError(f"{root}: {error}{besides(left_out or {})}") from error
    height, width = transform.size
    ignored = IGNORE_INDEX if ignore_index is None else ignore_index

    def load(item: Item) -> Loaded:
        image = load_image(image_bytes(path_of(item)), transform)
        found = class_map(item, image.size)
        if found.shape != image.size:
            found = scaled(found, image.size)
            remarks.add("masks of another size than their images, scaled to it", name_of(item))
        target = np.where(found == IGNORED, ignored, found).astype(np.uint8)
        resized = resize_mask(target, height, width)
        return Loaded(image.pixels, np.asarray(resized, dtype=np.uint8), image.size)

    def name_of(item: Item) -> str:
        return path_of(item).relative_to(root).as_posix()

    try:
        # The mask has one byte a pixel.
        samples = read_splits(
            str(root), parts, name_of, load, height * width * (transform.channels + 1)
        )
    except BrokenFiles as error:
        raise error.told(remarks.lines()) from error
    return Dataset(
        name=root.name,
        description=f"{described}; {words}",
        classes=tuple(classes),
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        ignore_index=ignore_index,
        left_out=left_out or {},
        notes=notes,
        remarks=remarks,
    )


def by_rule(
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
                + rule.hint
            )
        found[found == UNNAMED] = IGNORED
        return found

    return read
