"""Folders that are splits: train/, val/ and test/ beside each other."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.base.folders import is_image, list_images, split_named, visible_folders
from training.errors import DataError

_NAMED = 5


def split_folders(root: Path, holds_images: Callable[[Path], bool]) -> dict[str, Path]:
    """The folders of a data set by split; {"train": root} where it is not cut into splits.

    See splits_among, which raises DataError.
    """
    folders = {folder.name: folder for folder in visible_folders(root)}
    splits = splits_among(str(root), list(folders), lambda name: holds_images(folders[name]))
    return {split: folders[name] for split, name in splits.items()} or {"train": root}


def splits_among(
    root: str, folders: Sequence[str], holds_images: Callable[[str], bool]
) -> dict[str, str]:
    """The folders in a folder by split; empty where it is not cut into splits.

    Folders called as a split (in any case; see split_named) are splits where one of them is laid
    out as the source asks for: `holds_images` tells. Else they are folders like any other: a class
    may be called "train". Raises DataError where two folders are one split, where none of them is
    train, where there is nothing but folders of splits that are laid out in another way, or where
    all folders are laid out as splits and called like them ("seg_train", "test_set").
    """
    named = [name for name in folders if split_named(name)]
    if not any(map(holds_images, named)):
        if len(named) > 1 and named == folders:
            raise DataError(
                f"{root}: its folders {_listed(named)} are called as splits; expected a folder of "
                "images a class in each"
            )
        if folders and all(map(_sounds_like_a_split, folders)) and any(map(holds_images, folders)):
            raise DataError(
                f"{root}: its folders {_listed(folders)} look like splits; expected them to be "
                "called train/, val/ and test/"
            )
        return {}
    splits: dict[str, str] = {}
    for name in named:
        split = split_named(name) or ""
        if split in splits:
            raise DataError(f"{root}: {_listed([splits[split], name])} are both {split}")
        splits[split] = name
    if "train" not in splits:
        raise DataError(f"{root}: got {_listed(named)}; expected a folder train beside them")
    return splits


def _sounds_like_a_split(folder: str) -> bool:
    """Whether a word of the folder's name is a split's: "seg_train", "Test-Set", "trainset"."""
    words = re.split(r"[^a-z]+", folder.lower())
    return any(split_named(word.removesuffix("set")) for word in words)


def beside_splits(root: Path, splits: dict[str, Path]) -> dict[str, int]:
    """The number of images below each folder of `root` that is no split, as left out."""
    if splits == {"train": root}:
        return {}
    others = [folder for folder in visible_folders(root) if folder not in splits.values()]
    counts = {f"in {folder.name}/": len(list_images(folder).images) for folder in others}
    return {place: count for place, count in counts.items() if count}


def alike(root: Path) -> tuple[str, ...]:
    """A note where the folders in `root` hold no images but folders of the same names: one level
    or the other may be meant as splits."""
    folders = visible_folders(root)
    inner = [{folder.name for folder in visible_folders(one)} for one in folders]
    common = sorted(set.intersection(*inner)) if len(inner) > 1 else []
    if len(common) < 2 or any(is_image(file) for one in folders for file in one.iterdir()):
        return ()
    named = ", ".join(f"{name}/" for name in common[:_NAMED])
    return (
        f"{_listed([folder.name for folder in folders[:_NAMED]])} hold folders of the same names "
        f"({named}): each of the outer ones is a class; splits are folders train/, val/ and test/ "
        "around the classes",
    )


def _listed(folders: Sequence[str]) -> str:
    return ", ".join(f"{name}/" for name in folders)
