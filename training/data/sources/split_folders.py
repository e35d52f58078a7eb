"""Folders that are splits: train/, val/ and test/ beside each other."""

from collections.abc import Callable
from pathlib import Path

from serving.base.folders import list_images, split_named, visible_folders
from training.errors import DataError


def split_folders(root: Path, holds_images: Callable[[Path], bool]) -> dict[str, Path]:
    """The folders of a data set by split; {"train": root} where it is not cut into splits.

    Folders called as a split (in any case; see split_named) are splits where one of them is laid
    out as the source asks for: `holds_images` tells. Else they are folders like any other: a class
    may be called "train". Raises DataError where two folders are one split, where none of them is
    train, or where there is nothing but folders of splits that are laid out in another way.
    """
    folders = visible_folders(root)
    named = [folder for folder in folders if split_named(folder.name)]
    if not any(map(holds_images, named)):
        if len(named) > 1 and named == folders:
            raise DataError(
                f"{root}: its folders {_listed(named)} are called as splits; expected a folder of "
                "images a class in each"
            )
        return {"train": root}
    splits: dict[str, Path] = {}
    for folder in named:
        split = split_named(folder.name) or ""
        if split in splits:
            raise DataError(f"{root}: {_listed([splits[split], folder])} are both {split}")
        splits[split] = folder
    if "train" not in splits:
        raise DataError(f"{root}: got {_listed(named)}; expected a folder train beside them")
    return splits


def beside_splits(root: Path, splits: dict[str, Path]) -> dict[str, int]:
    """The number of images below each folder of `root` that is no split, as left out."""
    if splits == {"train": root}:
        return {}
    others = [folder for folder in visible_folders(root) if folder not in splits.values()]
    counts = {f"in {folder.name}/": len(list_images(folder).images) for folder in others}
    return {place: count for place, count in counts.items() if count}


def _listed(folders: list[Path]) -> str:
    return ", ".join(f"{folder.name}/" for folder in folders)
