"""Folders of images, one folder a class (torchvision's ImageFolder layout)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.manifest import EvalTransform
from serving.preprocess import load_image
from training.data.samples import Dataset, Pair, read_splits
from training.data.split import cut
from training.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SPLITS = ("train", "val", "test")

LabelledFiles = list[tuple[Path, int]]


def image_folder(
    root: Path,
    transform: EvalTransform,
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
) -> Dataset:
    """ROOT/CLASS/*.jpg, or ROOT/train/CLASS/*.jpg with val/ and test/ beside it as far as they
    exist; what is missing is cut from the training images, stratified by class.

    Classes are the folder names in ASCII order. Raises DataError naming what is missing or broken.
    """
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder")
    first = root / "train" if (root / "train").is_dir() else root
    classes = tuple(sorted(path.name for path in first.iterdir() if path.is_dir()))
    if len(classes) < 2:
        raise DataError(f"{first}: expected at least two folders, one a class, got {len(classes)}")
    train = _labelled_files(first, classes)
    parts: dict[str, LabelledFiles] = {}
    cuts = []
    for offset, (name, fraction) in enumerate((("test", test_fraction), ("val", val_fraction))):
        if first != root and (root / name).is_dir():
            parts[name] = _labelled_files(root / name, classes)
            continue
        kept, out = cut([label for _, label in train], fraction, split_seed + offset)
        parts[name], train = [train[i] for i in out], [train[i] for i in kept]
        cuts.append(f"{name} cut from train (seed {split_seed})")
    parts["train"] = train
    for name in SPLITS:
        if not parts[name]:
            raise DataError(f"{root}: no images for {name}")
    labels = {file: label for files in parts.values() for file, label in files}

    def load(file: Path) -> Pair:
        return load_image(file.read_bytes(), transform), np.asarray(labels[file], dtype=np.int64)

    height, width = transform.size
    files = {name: [file for file, _ in parts[name]] for name in SPLITS}
    samples = read_splits(root, files, load, height * width * 3)
    return Dataset(
        name=root.name,
        description=f"image folder {root.name}; {', '.join(cuts) or 'splits as given'}",
        classes=classes,
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
    )


def _labelled_files(folder: Path, classes: Sequence[str]) -> LabelledFiles:
    strangers = {path.name for path in folder.iterdir() if path.is_dir()} - set(classes)
    if strangers:
        raise DataError(f"{folder}: folders {sorted(strangers)} are not classes of train/")
    return [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
