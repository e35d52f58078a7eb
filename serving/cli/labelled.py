"""Labelled folders on disk: a folder a class, or images/ with masks/ and classes.txt."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.base.errors import InvalidInput
from serving.images.metadata import without_texts

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CLASSES_FILE = "classes.txt"


@dataclass(frozen=True)
class LabelledImage:
    """A file and the index of its class in the model's list of classes."""

    path: Path
    label: int


@dataclass(frozen=True)
class MaskedImage:
    """An image file and the file of its mask."""

    path: Path
    mask: Path


def class_folders(root: Path, classes: Sequence[str]) -> list[LabelledImage]:
    """Every image below root/CLASS/, where CLASS is one of the model's classes.

    Raises InvalidInput for a folder that is no class of the model, or where there are no images.
    """
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a folder")
    images = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name not in classes:
            raise InvalidInput(
                f"{folder}: {folder.name!r} is not a class of the model; "
                f"its classes are {_shortened(classes)}"
            )
        label = list(classes).index(folder.name)
        images += [LabelledImage(path, label) for path in _images(folder)]
    if not images:
        raise InvalidInput(f"{root}: expected one folder of images a class, found no images")
    return images


def identity_folders(root: Path) -> tuple[list[LabelledImage], list[str]]:
    """Every image below root/IDENTITY/, and the names of the identities that the labels stand for.

    Raises InvalidInput where there are no images.
    """
    names = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    return class_folders(root, names), names


def mask_pairs(root: Path) -> list[MaskedImage]:
    """Every root/images/NAME.* with its root/masks/NAME.png.

    Raises InvalidInput where a mask is missing, or where there are no images.
    """
    images = root / "images"
    if not images.is_dir():
        raise InvalidInput(f"{root}: expected the folders images and masks in it")
    pairs = [MaskedImage(path, root / "masks" / f"{path.stem}.png") for path in _images(images)]
    for pair in pairs:
        if not pair.mask.exists():
            raise InvalidInput(f"{pair.path}: its mask {pair.mask} is missing")
    if not pairs:
        raise InvalidInput(f"{images}: found no images")
    return pairs


def class_mapping(root: Path, classes: Sequence[str]) -> NDArray[np.int64]:
    """For each of 256 mask values the model's class, -1 for values that are not to be counted.

    classes.txt, in `root` or beside it, names the values by line; without it they are the model's.
    Where it names all of the model's classes and one more at the end, that is what is ignored.
    Raises InvalidInput where it cannot be read or names a class that the model does not have.
    """
    mapping = np.full(256, -1, np.int64)
    for file in (root / CLASSES_FILE, root.parent / CLASSES_FILE):
        if file.exists():
            try:
                names = file.read_text(encoding="utf-8").rstrip().split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidInput(f"{file}: cannot be read: {error}") from error
            if [name.strip() for name in names[:-1]] == list(classes):
                names.pop()
            for value, name in enumerate(names[:256]):
                if name.strip() and name.strip() not in classes:
                    raise InvalidInput(
                        f"{file}: {name.strip()!r} is not a class of the model; "
                        f"its classes are {_shortened(classes)}"
                    )
                if name.strip():
                    mapping[value] = list(classes).index(name.strip())
            return mapping
    mapping[: len(classes)] = np.arange(min(256, len(classes)))
    return mapping


def read_mask(path: Path) -> NDArray[np.uint8]:
    """An 8-bit mask file as uint8 [H, W]. Raises InvalidInput."""
    try:
        with Image.open(io.BytesIO(without_texts(path.read_bytes()))) as image:
            if image.mode not in ("L", "P"):
                raise InvalidInput(f"{path}: expected an 8-bit mask, got mode {image.mode}")
            return np.asarray(image)
    except InvalidInput:
        raise
    except Exception as error:  # Damaged files make Pillow's readers raise almost anything.
        raise InvalidInput(f"{path}: cannot be read as a mask: {error}") from error


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def _shortened(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:10])
    return f"{shown}, ... ({len(classes)} in all)" if len(classes) > 10 else shown
