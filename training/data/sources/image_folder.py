"""Folders of images, one folder a class (torchvision's ImageFolder layout)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset, Loaded, read_splits
from training.data.split import complete
from training.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

LabelledFile = tuple[Path, int]


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
    exist; what is missing is cut from the training images, stratified by class.

    Classes are the folder names in ASCII order. `test` names the folder that is evaluated on.
    Raises DataError naming what is missing or broken.
    """
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder")
    first = root / "train" if (root / "train").is_dir() else root
    classes = tuple(sorted(path.name for path in first.iterdir() if path.is_dir()))
    if len(classes) < 2:
        raise DataError(f"{first}: expected at least two folders, one a class, got {len(classes)}")
    given = {"train": _labelled_files(first, classes)}
    if first != root:
        for name in ("val", "test"):
            if (root / name).is_dir():
                given[name] = _labelled_files(root / name, classes)
    return labelled_dataset(
        root,
        given,
        classes,
        f"image folder {root.name}",
        eval_transform,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        test=test,
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
) -> Dataset:
    """Files below `root` with the numbers of their classes, by split; see split.complete for those
    that are missing. Raises DataError."""
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
        raise DataError(f"{root}: {error}") from error
    height, width = eval_transform.size
    samples = read_splits(
        str(root),
        parts,
        lambda item: shown_name(item[0], root),
        lambda item: load_labelled(*item, eval_transform),
        height * width * 3,
    )
    return Dataset(
        name=root.name,
        description=f"{described}; {words}",
        classes=tuple(classes),
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
    )


def shown_name(file: Path, root: Path) -> str:
    """What a report calls a file: its path below the root, if it lies there."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def load_labelled(file: Path, label: int, eval_transform: EvalTransform) -> Loaded:
    """An image file with the number of its class. Raises InvalidInput, OSError."""
    image = load_image(file.read_bytes(), eval_transform)
    return Loaded(image.pixels, np.asarray(label, dtype=np.int64), image.size)


def _labelled_files(folder: Path, classes: Sequence[str]) -> list[LabelledFile]:
    strangers = {path.name for path in folder.iterdir() if path.is_dir()} - set(classes)
    if strangers:
        raise DataError(f"{folder}: folders {sorted(strangers)} are not classes of train/")
    return [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
