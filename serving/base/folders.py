"""Folders of images: entries that are images, and entries that are passed over.

Training and `convserve evaluate` list folders with these functions. The client and the load tester
may not import them; each follows the same rule in a few lines of its own.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from serving.base.errors import InvalidInput

# Endings of the formats that are decoded: JPEG, PNG, WebP, BMP.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp")

# Entries that operating systems and network drives leave, in lower case.
_SYSTEM_ENTRIES = frozenset({
    "$recycle.bin", "#recycle", "@eadir", "@recycle", "__macosx", "__pycache__", "desktop.ini",
    "ehthumbs.db", "icon\r", "lost+found", "system volume information", "thumbs.db",
})  # fmt: skip


def is_passed_over(name: str) -> bool:
    """Whether the name of a folder's entry marks it as hidden (`.DS_Store`, `._x.jpg`,
    `.ipynb_checkpoints`) or left by an operating system (`__MACOSX`, `Thumbs.db`)."""
    return name.startswith(".") or name.lower() in _SYSTEM_ENTRIES


def why_no_folder(path: Path) -> str:
    """What a message says of a path that is no folder, after its name and a colon."""
    return "is not a folder" if path.exists() else "no such folder"


_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class Listing(NamedTuple):
    """The files below a folder.

    images: paths of the images, sorted.
    left_out: number of other files by their ending, in lower case; entries that are passed over
        are not counted.
    """

    images: list[Path]
    left_out: Counter[str]


class LabelledListing(NamedTuple):
    """The files below a folder that holds a folder a class.

    images: paths of the images of each class, sorted; empty for a class without images.
    left_out: as in Listing, and the number of images beside the class folders.
    """

    images: dict[str, list[Path]]
    left_out: Counter[str]


def list_images(folder: Path) -> Listing:
    """The images below a folder. Links to folders are followed at `folder` alone.

    Raises InvalidInput where a folder cannot be read.
    """
    images: list[Path] = []
    left_out: Counter[str] = Counter()
    for file in visible_files(folder):
        if is_image(file):
            images.append(file)
        else:
            left_out[file.suffix.lower() or "no ending"] += 1
    return Listing(images, left_out)


def list_class_folders(root: Path) -> LabelledListing:
    """The images below each folder in `root`, by the folder's name.

    Raises InvalidInput where a folder cannot be read.
    """
    images: dict[str, list[Path]] = {}
    left_out: Counter[str] = Counter()
    for folder in visible_folders(root):
        found = list_images(folder)
        images[folder.name] = found.images
        left_out += found.left_out
    if loose := sum(is_image(path) and not path.is_dir() for path in root.iterdir()):
        left_out["beside the class folders"] = loose
    return LabelledListing(images, left_out)


def visible_files(folder: Path) -> list[Path]:
    """Every file below a folder, sorted, without entries that are passed over and their content.

    Raises InvalidInput where a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InvalidInput(f"{error.filename}: cannot be read: {error.strerror}") from error

    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        # os.walk descends into the folders that stay in this list.
        folders[:] = [name for name in folders if not is_passed_over(name)]
        found += [Path(place, name) for name in files if not is_passed_over(name)]
    return sorted(found)


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not passed over, sorted.

    Raises InvalidInput where `folder` cannot be read.
    """
    try:
        return sorted(
            path for path in folder.iterdir() if not is_passed_over(path.name) and path.is_dir()
        )
    except OSError as error:
        raise InvalidInput(f"{folder}: cannot be read: {error.strerror}") from error


def split_named(name: str) -> str | None:
    """The split, train, val or test, that a folder or a value is called after, such as "Train",
    "valid" or "Testing"; None for another name."""
    return _SPLITS.get(name.strip().lower())


def told(left_out: Mapping[str, int]) -> str:
    """A count of files in words: "3 .tif, 1 no ending"; the most frequent first."""
    ranked = sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count} {ending}" for ending, count in ranked)


def is_image(file: Path) -> bool:
    """Whether a path is one of an image, by its name."""
    return not is_passed_over(file.name) and file.suffix.lower() in IMAGE_SUFFIXES
