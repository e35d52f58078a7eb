"""The folders and files below a folder, in bounded time and memory."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from serving.base.folders import is_image, is_passed_over, split_named, why_no_folder
from training.errors import DataError

# Entries and seconds after which the walk stops. More sees more of a large or slow store and takes
# longer; what was not seen is said to be so.
MAX_ENTRIES = 1_000_000
MAX_SECONDS = 15.0
# Names that are kept of a folder's images, and of its other files; all are counted. More bring
# larger samples and more memory.
_KEPT = 1000


@dataclass(eq=False)
class Folder:
    """One folder.

    images: names of the first images, in the order of the file system.
    image_count: number of all of them.
    files: names of the first other files.
    endings: number of other files by ending.
    folders: those in it that are not passed over, by name.
    """

    path: Path
    images: list[str] = field(default_factory=list)
    image_count: int = 0
    files: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    folders: dict[str, "Folder"] = field(default_factory=dict)

    def all(self) -> Iterator["Folder"]:
        """This folder and all below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.all()

    def images_below(self) -> int:
        """The number of images in this folder and below it."""
        return sum(folder.image_count for folder in self.all())

    def files_below(self) -> Iterator[Path]:
        """The files that are no images, as far as they are kept."""
        for folder in self.all():
            yield from (folder.path / name for name in folder.files)


@dataclass(frozen=True)
class Tree:
    """What a walk saw.

    complete: it saw everything.
    notes: folders that could not be read, one line each.
    """

    root: Folder
    complete: bool
    notes: tuple[str, ...]


def walk(root: Path, max_entries: int = MAX_ENTRIES, max_seconds: float = MAX_SECONDS) -> Tree:
    """Lists the folders below `root`, nearest first. Links to folders are followed where sources
    follow them, directly in `root` and in its splits, so that every loop ends.

    Raises DataError where `root` is no folder or cannot be read.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {why_no_folder(root)}")
    top = Folder(root)
    waiting, splits, notes, seen = [top], list[Folder](), list[str](), 0
    end = time.monotonic() + max_seconds
    for folder in waiting:
        try:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    seen += 1
                    if seen > max_entries or time.monotonic() > end:
                        return Tree(top, False, tuple(notes))
                    inner = _take(folder, entry, follow=folder is top or folder in splits)
                    if inner is not None:
                        waiting.append(inner)
        except OSError as error:
            if folder is top:
                raise DataError(f"{root}: cannot be read: {error.strerror}") from error
            notes.append(f"{folder.path}: cannot be read: {error.strerror}; left out")
        folder.folders = dict(sorted(folder.folders.items()))
        if folder is top:
            splits = [inner for name, inner in folder.folders.items() if split_named(name)]
    return Tree(top, True, tuple(notes))


def _take(folder: Folder, entry: os.DirEntry[str], *, follow: bool) -> Folder | None:
    """Notes an entry of a folder; gives the folder that it is, if it is one."""
    name = entry.name
    if is_passed_over(name):
        return None
    try:
        is_folder = entry.is_dir(follow_symlinks=follow)
        is_file = not is_folder and entry.is_file()
    except OSError:  # a link that leads to itself
        return None
    if is_folder:
        folder.folders[name] = Folder(folder.path / name)
        return folder.folders[name]
    if not is_file:
        return None
    path = Path(name)
    if is_image(path):
        folder.image_count += 1
        if len(folder.images) < _KEPT:
            folder.images.append(name)
    else:
        folder.endings[path.suffix.lower() or "no ending"] += 1
        if len(folder.files) < _KEPT:
            folder.files.append(name)
    return None
