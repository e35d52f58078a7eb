"""The documents of a COCO data set and the folders of their images, by the usual names."""

import re
from collections.abc import Mapping
from pathlib import Path

from serving.base.folders import split_named, visible_folders
from training.data.sources.paths import place_below
from training.errors import DataError
from training.recipes.masks import CocoData

# Of several documents of a split, the first of these is meant: COCO has captions and keypoints too.
_PREFERRED = ("instances", "panoptic", "stuff")


def coco_files(data: CocoData) -> dict[str, tuple[Path, list[Path]]]:
    """The document of each split, and the folders in which its images may lie. Raises DataError
    where there is none for train, or several that may be meant."""
    files = _documents(data)
    if "train" not in files:
        raise DataError(
            f"{data.root}: no JSON of annotations for train; data.annotations says where it is"
        )
    return {split: (file, _folders(data, split, file)) for split, file in files.items()}


def _documents(data: CocoData) -> dict[str, Path]:
    root = data.root
    if data.annotations is not None:
        told: Mapping[str, str] = (
            {"train": data.annotations}
            if isinstance(data.annotations, str)
            else {str(split): name for split, name in data.annotations.items()}
        )
        return {split: place_below(root, root, name) for split, name in told.items()}
    found: dict[str, list[Path]] = {}
    for folder in (root, root / "annotations"):
        for file in sorted(folder.glob("*.json")):
            found.setdefault(_split_in(file.stem) or "", []).append(file)
    for folder in visible_folders(root):
        if split := split_named(folder.name):
            found.setdefault(split, []).extend(sorted(folder.glob("*.json")))
    whole = found.pop("", [])
    if not any(found.values()) and whole:
        found = {"train": whole}
    return {split: _one(files, split) for split, files in found.items() if files}


def _one(files: list[Path], split: str) -> Path:
    for word in _PREFERRED:
        if chosen := [file for file in files if word in file.stem]:
            files = chosen
            break
    if len(files) > 1:
        raise DataError(
            f"{files[0]} and {files[1].name} are both JSON for {split}; data.annotations says which"
        )
    return files[0]


def _split_in(stem: str) -> str | None:
    """The split in a name such as instances_train2017."""
    words = re.split(r"[^a-z]+", stem.lower())
    return next((split for word in words if (split := split_named(word))), None)


def _folders(data: CocoData, split: str, file: Path) -> list[Path]:
    root, told = data.root, data.images
    if told is not None:
        name = (
            told if isinstance(told, str) else next((x for k, x in told.items() if k == split), "")
        )
        return [place_below(root, root, name or ".")]
    # instances_train2017.json lies beside train2017/.
    names = [file.stem.rpartition("_")[2], split]
    inner = [base / name for base in (root, root / "images") for name in names]
    folders = [file.parent, *inner, root / "images", root]
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))
