"""Images with labels: which source of a recipe reads a folder."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from serving.base.folders import visible_folders
from serving.base.task import Task
from training.data.sources.split_folders import split_folders
from training.errors import DataError
from training.initial.facts import Labelled
from training.initial.walk import Folder, Tree

# Folders around the data that are entered, such as those an archive brings along.
_WRAPPERS = 3
# Images that are kept as a sample.
_SAMPLED = 512
# From so many folders on, with at most so many images each, folders may be people.
_PEOPLE, _PICTURES = 10, 20
_NUMBERED = re.compile(r"[A-Za-z_ -]*\d+")
_NAMED = 5

Detector = Callable[[Folder], Labelled | None]


def find_labelled(tree: Tree) -> Labelled | None:
    """The labelled images of a folder, or of the one folder in it that holds everything; None
    where there are none. Raises DataError where they are laid out in a way that no source reads."""
    folder = tree.root
    for _ in range(_WRAPPERS):
        for detector in DETECTORS:
            found = detector(folder)
            if found is not None:
                return found
        if folder.image_count or len(folder.folders) != 1:
            break
        folder = next(iter(folder.folders.values()))
    return None


def class_folders(top: Folder) -> Labelled | None:
    """ROOT/CLASS/*.jpg, or ROOT/train/CLASS/*.jpg with val/ and test/ beside it."""
    if not any(folder.images_below() for folder in top.folders.values()):
        return None
    paths = split_folders(top.path, lambda path: bool(visible_folders(path)))
    splits = (
        {"train": top}
        if paths == {"train": top.path}
        else {split: top.folders[path.name] for split, path in paths.items()}
    )
    counts = {name: folder.images_below() for name, folder in splits["train"].folders.items()}
    filled = {name: count for name, count in counts.items() if count}
    if len(filled) < 2:
        return None
    notes = [
        f"{splits['train'].path / name} holds no image; the build refuses a class without one"
        for name in counts.keys() - filled.keys()
    ][:_NAMED]
    task: Task = "classification"
    sure = True
    others = {
        name for split, folder in splits.items() if split != "train" for name in folder.folders
    }
    if others and not others & filled.keys():
        task = "embedding"
        notes.append("no folder of train is in another split, as with people to be told apart")
    elif len(filled) >= _PEOPLE and median(filled.values()) <= _PICTURES:
        sure = not all(_NUMBERED.fullmatch(name) for name in filled)
    source = "identity_folder" if task == "embedding" else "image_folder"
    return Labelled(
        data={"source": source, "root": str(top.path)},
        how="a folder of images for each class",
        tasks=("classification", "embedding") if task == "classification" else (task,),
        sure=sure,
        classes=tuple(filled),
        smallest=min(filled.values()),
        splits={split: folder.images_below() for split, folder in splits.items()},
        sample=spread(splits["train"].folders.values()),
        notes=tuple(notes),
    )


def spread(folders: Iterable[Folder], most: int = _SAMPLED) -> tuple[Path, ...]:
    """Some images below each of the folders, one of each in turn, so that any beginning has images
    of many."""
    held = [
        [inner.path / name for inner in folder.all() for name in sorted(inner.images)]
        for folder in folders
    ]
    chosen: list[Path] = []
    for place in range(most):
        row = [files[place] for files in held if place < len(files)]
        if not row or len(chosen) >= most:
            break
        chosen += row
    return tuple(chosen[:most])


def unlabelled(top: Folder, found: str) -> DataError:
    """The error for a folder in which nothing can be built from."""
    images = top.images_below()
    if not images:
        return DataError(f"{top.path}: no images, and no network in a file{found}")
    with_images = [name for name, folder in top.folders.items() if folder.images_below()]
    if len(with_images) == 1 and not top.image_count:
        seen = f"{images} images in one folder, {with_images[0]}/"
    else:
        seen = f"{images} images, and nothing that says the class of each"
    return DataError(
        f"{top.path}: {seen}; expected a folder of images for each class (at least two), images/ "
        f"with masks/, or a table with their labels{found}"
    )


DETECTORS: tuple[Detector, ...] = (class_folders,)
"""In their order: the first that recognises a folder is taken."""
