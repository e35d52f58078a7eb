"""Folders of images with one mask each."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from serving.images.masks import (
    CLASSES_FILE,
    WHITE,
    MaskedImage,
    are_black_and_white,
    list_masked_images,
    read_classes,
    read_mask,
)
from serving.images.postprocess import resize_mask
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset, Loaded, read_splits
from training.data.sources.image_folder import besides
from training.data.sources.split_folders import beside_splits, split_folders
from training.data.split import complete
from training.errors import DataError, data_errors

DEFAULT_IGNORE_INDEX = 255


@data_errors()
def mask_folder(
    root: Path,
    eval_transform: EvalTransform,
    *,
    ignore_index: int | None,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    test: str = "test",
) -> Dataset:
    """ROOT/images/NAME.jpg with ROOT/masks/NAME.png, or the same below ROOT/train, val and test as
    far as they exist; missing splits are cut from the training images at random.

    A mask is an 8-bit greyscale or palette PNG, or a 1-bit one, of the image's size. Its values are
    line numbers of ROOT/classes.txt, from 0, or `ignore_index`; a last line at `ignore_index` names
    the pixels that are ignored and is no class. Without `ignore_index` it is 255; but where two
    classes are named and all masks hold 0 and 255 alone, 255 is the second class. Masks are resized
    by nearest neighbour. `test` names the split that is evaluated on.
    Raises DataError naming the folder or files that are missing or broken.
    """
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder")
    names = read_classes(root / CLASSES_FILE)
    given, left_out = _listed(root)
    masks = [pair.mask for pairs in given.values() for pair in pairs]
    white = ignore_index is None and len(names) == 2 and are_black_and_white(masks)
    ignored = DEFAULT_IGNORE_INDEX if ignore_index is None else ignore_index
    classes = _classes(root / CLASSES_FILE, names, ignored)
    try:
        parts, words = complete(
            given,
            lambda pair: 0,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            test=test,
        )
    except DataError as error:
        raise DataError(f"{root}: {error}{besides(left_out)}") from error
    note = f"masks hold 0 and {WHITE} alone: {WHITE} is {classes[1]!r}"
    height, width = eval_transform.size
    samples = read_splits(
        str(root),
        parts,
        lambda pair: pair.path.relative_to(root).as_posix(),
        _loading(eval_transform, len(classes), None if white else ignored),
        # The mask has one byte a pixel.
        height * width * (eval_transform.channels + 1),
    )
    return Dataset(
        name=root.name,
        description=f"mask folder {root.name}; {words}",
        classes=classes,
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        ignore_index=None if white else ignored,
        left_out=left_out,
        notes=(note,) if white else (),
    )


def _listed(root: Path) -> tuple[dict[str, list[MaskedImage]], Counter[str]]:
    """The images of each split with their masks, and the number of files that are left out."""
    folders = split_folders(root, lambda folder: True)
    found = {split: list_masked_images(folder) for split, folder in folders.items()}
    left_out = sum((x.left_out for x in found.values()), Counter(beside_splits(root, folders)))
    given = {split: listing.pairs for split, listing in found.items()}
    images = root / "images"
    if folders == {"train": root} and all(pair.path.parent != images for pair in given["train"]):
        # They may lie in images/train, images/val and images/test.
        inner = split_folders(images, lambda folder: True)
        left_out += Counter(beside_splits(images, inner))
        given = {
            split: [pair for pair in given["train"] if pair.path.is_relative_to(folder)]
            for split, folder in inner.items()
        }
    return given, left_out


def _classes(file: Path, names: Sequence[str], ignore_index: int) -> tuple[str, ...]:
    """The names without that of the pixels that are ignored."""
    classes = tuple(names)
    if len(classes) == ignore_index + 1:
        classes = classes[:-1]
    elif ignore_index < len(classes):
        raise DataError(
            f"{file}: data.ignore_index {ignore_index} is also the class "
            f"{classes[ignore_index]!r}; expected an index past the classes, or that of the last "
            "line, which then names what is ignored"
        )
    if not 2 <= len(classes) <= 256:
        raise DataError(f"{file}: expected 2 to 256 classes, one a line, got {len(classes)}")
    return classes


def _loading(
    eval_transform: EvalTransform, classes: int, ignore_index: int | None
) -> Callable[[MaskedImage], Loaded]:
    """Reads an image with its mask; without `ignore_index` masks are black and white."""
    height, width = eval_transform.size
    # The target of each mask value; -1 for values that no mask may hold.
    targets = np.full(256, -1, np.int16)
    if ignore_index is None:
        targets[[0, WHITE]] = 0, 1
        expected = f"0 and {WHITE}, as in the other masks"
    else:
        targets[:classes] = np.arange(classes)
        targets[ignore_index] = ignore_index
        expected = f"classes 0 to {classes - 1} or {ignore_index} (ignored)"

    def load(pair: MaskedImage) -> Loaded:
        image = load_image(pair.path.read_bytes(), eval_transform)
        values = read_mask(pair.mask)
        mask = targets[values]
        if (mask < 0).any():
            strange = np.unique(values[mask < 0])[:5].tolist()
            raise DataError(f"mask {pair.mask.name}: expected {expected}, got {strange}")
        if mask.shape != image.size:
            raise DataError(
                f"the image is {image.size[1]}x{image.size[0]}, "
                f"its mask {mask.shape[1]}x{mask.shape[0]}"
            )
        resized = resize_mask(mask.astype(np.uint8), height, width)
        return Loaded(image.pixels, np.asarray(resized, dtype=np.uint8), image.size)

    return load
