"""Folders of images, one folder a class (torchvision's ImageFolder layout)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from serving.base.folders import list_class_folders, told, visible_folders
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset, Loaded, read_splits
from training.data.sources.split_folders import alike, beside_splits, split_folders
from training.data.split import complete
from training.errors import DataError, data_errors

LabelledFile = tuple[Path, int]

_NAMED_CLASSES = 10


@data_errors()
def image_folder(
    root: Path,
    eval_transform: EvalTransform,
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    test: str = "test",
) -> Dataset:
    """ROOT/CLASS/*.jpg, or ROOT/train/CLASS/*.jpg with val/ and test/ beside it as far as they
    exist; missing splits are cut from the training images, stratified by class.

    Classes are the folder names in ASCII order. `test` names the split that is evaluated on.
    Raises DataError naming the folder or files that are missing or broken.
    """
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder")
    folders = split_folders(root, lambda folder: bool(visible_folders(folder)))
    found = {split: list_class_folders(folder) for split, folder in folders.items()}
    classes = sorted(found["train"].images)
    if len(classes) < 2:
        raise DataError(
            f"{folders['train']}: expected at least two folders, one a class, got {len(classes)}"
        )
    for split, listing in found.items():
        if strangers := sorted(set(listing.images) - set(classes)):
            raise DataError(
                f"{folders[split]}: folders {strangers} are not classes of {folders['train']}"
            )
    return labelled_dataset(
        root,
        {
            split: [
                (file, label)
                for label, name in enumerate(classes)
                for file in listing.images.get(name, ())
            ]
            for split, listing in found.items()
        },
        classes,
        f"image folder {root.name}",
        eval_transform,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        test=test,
        left_out=sum((x.left_out for x in found.values()), Counter(beside_splits(root, folders))),
        notes=alike(folders["train"]),
    )


def labelled_dataset(
    root: Path,
    given: dict[str, list[LabelledFile]],
    classes: Sequence[str],
    described: str,
    eval_transform: EvalTransform,
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    test: str,
    left_out: Mapping[str, int],
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Files below `root` with the numbers of their classes, by split; missing splits are cut as
    split.complete does. Raises DataError, also where train has no image of a class."""
    with_images = {label for _, label in given["train"]}
    if missing := [name for label, name in enumerate(classes) if label not in with_images]:
        named = ", ".join(missing[:_NAMED_CLASSES])
        raise DataError(
            f"{root}: no images for train of {named} ({len(missing)} of {len(classes)} classes); "
            f"every class needs some to learn from{besides(left_out)}"
        )
    try:
        parts, words = complete(
            given,
            lambda item: item[1],
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            test=test,
        )
    except DataError as error:
        raise DataError(f"{root}: {error}{besides(left_out)}") from error
    height, width = eval_transform.size
    samples = read_splits(
        str(root),
        parts,
        lambda item: shown_name(item[0], root),
        lambda item: load_labelled(*item, eval_transform),
        height * width * eval_transform.channels,
    )
    return Dataset(
        name=root.name,
        description=f"{described}; {words}",
        classes=tuple(classes),
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        left_out=left_out,
        notes=notes,
    )


def besides(left_out: Mapping[str, int]) -> str:
    """The files that are left out, as the end of a message on missing ones."""
    return f"; files left out: {told(left_out)}" if left_out else ""


def shown_name(file: Path, root: Path) -> str:
    """A file's name in reports: its path below the root, if it lies there."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def load_labelled(file: Path, label: int, eval_transform: EvalTransform) -> Loaded:
    """An image file with the number of its class. Raises InvalidInput, OSError."""
    image = load_image(file.read_bytes(), eval_transform)
    return Loaded(image.pixels, np.asarray(label, dtype=np.int64), image.size)
