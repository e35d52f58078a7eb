"""Layouts of labelled images, recognised by their folders and files; sources then read them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from serving.base.folders import split_named
from serving.base.task import Task
from serving.images.masks.folders import IMAGE_FOLDERS, MASK_ENDS, MASK_FOLDERS, SIBLINGS
from training.data.layout.walk import Folder
from training.data.sources.listings.metadata import METADATA_FILES
from training.data.sources.masks.voc import IMAGES, MASKS

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
# Tables that a set has beside those of its images.
_OTHER_TABLES = ("class_dict.csv", *METADATA_FILES)
# Bytes at the beginning and the end of a JSON file in which COCO's names are looked for.
_HEAD = 1 << 16
# From so many folders on, with at most so many images each, numbered folders may be people.
_PEOPLE, _PICTURES = 10, 20
_NUMBERED = re.compile(r"[A-Za-z_ -]*\d+")


class Kind(NamedTuple):
    """A layout that a folder seems to have.

    data: the section of a recipe that would read it.
    how: the layout in words.
    tasks: those that the labels can be used for; the likely one first.
    sure: the layout leaves no doubt about the task.
    """

    data: Mapping[str, Any]
    how: str
    tasks: tuple[Task, ...]
    sure: bool = True


def kinds(top: Folder) -> Iterator[Kind]:
    """The layouts that a folder may have, the most telling first."""
    root = str(top.path)
    data: dict[str, Any]
    places = [top, *(folder for name, folder in top.folders.items() if split_named(name))]
    if {IMAGES, MASKS} <= top.folders.keys():
        yield Kind({"source": "voc", "root": root}, "a VOC folder", ("segmentation",))
    documents = [
        folder.path / name
        for folder in (*places, *_named(top, ("annotations",)))
        for name in folder.files
        if name.lower().endswith(".json")
    ]
    if any(map(_is_coco, documents[:20])):
        yield Kind({"source": "coco", "root": root}, "COCO's annotations", ("segmentation",))
    if any(map(_is_labelme, documents[:5])):
        yield Kind({"source": "labelme", "root": root}, "labelme's outlines", ("segmentation",))
    if any(_has_masks(folder) for folder in places) or _has_masks_beside(top):
        yield Kind({"source": "mask_folder", "root": root}, "images with masks", ("segmentation",))
    if any(name in folder.files for folder in places for name in METADATA_FILES):
        data = {"source": "image_folder", "root": root}
        yield Kind(data, "images with a table of metadata", ("classification",))
    yield from _class_folders(top, root)
    tables = sorted(
        name
        for name in top.files
        if name.lower().endswith(TABLES) and name.lower() not in _OTHER_TABLES
    )
    if tables:
        paths = [str(top.path / name) for name in tables]
        data = {"source": "table", "file": paths[0] if len(paths) == 1 else paths}
        yield Kind(data, f"the table {', '.join(tables[:3])}", ("classification",))


def _named(top: Folder, names: tuple[str, ...]) -> list[Folder]:
    return [folder for name, folder in top.folders.items() if name.lower() in names]


def _has_masks(folder: Folder) -> bool:
    """Whether there are folders of images and of masks, or files called alike but for an end."""
    if _named(folder, MASK_FOLDERS) and _named(folder, IMAGE_FOLDERS):
        return True
    ends = tuple(end for end in MASK_ENDS if end)
    stems = [Path(name).stem for name in folder.images]
    return any(stem.endswith(ends) for stem in stems)


def _has_masks_beside(top: Folder) -> bool:
    """Whether there are folders of splits with those of their masks beside them: train,
    train_labels."""
    names = {name.lower() for name in top.folders}
    return any(split_named(name) and name + end in names for name in names for end in SIBLINGS)


def _class_folders(top: Folder, root: str) -> Iterator[Kind]:
    """Folders with images, directly or in folders of splits."""
    splits = {
        split: folder
        for name, folder in top.folders.items()
        if (split := split_named(name)) and any(x.images_below() for x in folder.folders.values())
    }
    held = splits.get("train", top)
    counts = {name: folder.images_below() for name, folder in held.folders.items()}
    counts = {name: count for name, count in counts.items() if count}
    if len(counts) < 2:
        return
    how = "a folder of images for each class"
    others = {
        name for split, folder in splits.items() if split != "train" for name in folder.folders
    }
    data = {"source": "image_folder", "root": root}
    if others and not others & counts.keys():
        people = "a folder of images for each person, none of them in two splits"
        yield Kind({**data, "source": "identity_folder"}, people, ("embedding",))
    few = len(counts) >= _PEOPLE and median(counts.values()) <= _PICTURES
    numbered = all(_NUMBERED.fullmatch(name) for name in counts)
    yield Kind(data, how, ("classification", "embedding"), sure=not (few and numbered))


def _is_coco(file: Path) -> bool:
    """Whether a JSON file names COCO's lists, at its beginning or its end: it may be large."""
    try:
        with file.open("rb") as stream:
            text = stream.read(_HEAD)
            stream.seek(max(0, file.stat().st_size - _HEAD))
            text += stream.read(_HEAD)
    except OSError:
        return False
    return b'"categories"' in text or (b'"annotations"' in text and b'"images"' in text)


def _is_labelme(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return b'"shapes"' in stream.read(_HEAD)
    except OSError:
        return False
