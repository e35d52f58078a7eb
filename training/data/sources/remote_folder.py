"""Folders of images behind a URL: one folder a class, or images/ with masks/.

A folder is listed once. The names of its files are kept in memory, about 200 bytes an image; the
files are read when a batch asks for them. Larger sets are better put into shards.
"""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from serving.base.folders import IMAGE_SUFFIXES, is_passed_over
from serving.base.storage.address import joined
from serving.base.storage.entry import Entry
from serving.images.masks.folders import (
    CLASSES_FILE,
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    classes_in,
    pair_masks,
    usual_name,
)
from serving.repository.manifest import EvalTransform
from training.data.readers import ImageReader, Targets
from training.data.samples import SAMPLED_IMAGES, Dataset, FileSamples
from training.data.shards.masks import mask_reader
from training.data.sources.assemble import assembled, numbered
from training.data.sources.split_folders import splits_among
from training.data.storage.store import Store
from training.errors import DataError, data_errors
from training.recipes.remote.sources import RemoteFolderData

# Files of one item: an image with the number of its class, or with its mask.
_Item = tuple[Entry, int] | tuple[Entry, Entry]

_LISTINGS = 16
# Requests under way at once: more hide a longer way to the store.
_REQUESTS = 16
# Folders in folders that are looked into.
_DEPTH = 8
_MOST_FILE_BYTES = 64 << 20
_MOST_TEXT_BYTES = 1 << 20


class _Listed:
    """Files below a folder, as far as they are images or masks."""

    def __init__(self, store: Store, root: str) -> None:
        self.store = store
        self.root = root.rstrip("/")

    @functools.cached_property
    def top(self) -> list[Entry]:
        return _visible(self.store.list(self.root))

    @functools.cached_property
    def splits(self) -> dict[str, str]:
        """The folder of each split; that of train alone where there are none."""
        folders = {entry.name: entry.address for entry in self.top if entry.is_folder}
        splits = splits_among(
            self.root, list(folders), lambda name: bool(self.folders(folders[name]))
        )
        return {split: folders[name] for split, name in splits.items()} or {"train": self.root}

    def folders(self, address: str) -> list[Entry]:
        """The folders in a folder."""
        return [entry for entry in _visible(self.store.list(address)) if entry.is_folder]

    def files(self, folder: str, depth: int = 0) -> list[Entry]:
        """The images below a folder."""
        if depth == _DEPTH:
            raise DataError(f"{folder}: lies more than {_DEPTH} folders deep")
        found: list[Entry] = []
        for entry in _visible(self.store.list(folder)):
            if entry.is_folder:
                found += self.files(entry.address, depth + 1)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                found.append(entry)
        return found

    def classes(self) -> dict[str, dict[str, list[Entry]]]:
        """By split the images of each class."""
        folders = {split: self.folders(place) for split, place in self.splits.items()}
        with ThreadPoolExecutor(_LISTINGS) as pool:
            return {
                split: dict(
                    zip(
                        (entry.name for entry in classes),
                        pool.map(lambda entry: self.files(entry.address), classes),
                        strict=True,
                    )
                )
                for split, classes in folders.items()
            }

    def masks(self) -> dict[str, list[tuple[Entry, Entry]]]:
        """By split the images with their masks."""
        pairs = {}
        for split, place in self.splits.items():
            there = [entry.name for entry in self.folders(place)]
            images = usual_name(there, IMAGE_FOLDERS, "images", place)
            masks = usual_name(there, MASK_FOLDERS, "masks", place)
            if images is None or masks is None:
                raise DataError(
                    f"{place}: expected images/ and masks/ in it, got {', '.join(there) or 'none'}"
                )
            at, beside = joined(place, images), joined(place, masks)
            pairs[split] = pair_masks(
                {_stem(entry.address, at): entry for entry in self.files(at)},
                {
                    _stem(entry.address, beside): entry
                    for entry in self.files(beside)
                    if entry.name.lower().endswith(".png")
                },
                beside,
                images,
            )
        return pairs


@data_errors()
def remote_folder(data: RemoteFolderData, transform: EvalTransform, *, masks: bool) -> Dataset:
    """The splits of a folder behind a URL; missing ones are cut from train. Images stay in memory
    where all fit. Raises DataError."""
    store = Store(data.storage)
    listed = _Listed(store, data.root)
    given: dict[str, list[_Item]]
    if masks:
        named = joined(data.root, CLASSES_FILE)
        classes = classes_in(named, store.read_file(named, _MOST_TEXT_BYTES))
        given = {split: list(pairs) for split, pairs in listed.masks().items()}
    else:
        by_class = listed.classes()
        classes = sorted(by_class["train"])
        given = {
            split: list(pairs)
            for split, pairs in numbered(
                data.root, by_class, classes, listed.splits["train"]
            ).items()
        }
    if len(classes) < 2:
        raise DataError(f"{data.root}: expected at least two classes, got {classes}")
    read = mask_reader(len(classes), data.ignore_index)

    def target(item: _Item, size: tuple[int, int]) -> Targets:
        if isinstance(item[1], int):
            return np.asarray(item[1], np.int64)
        return read(_content(store, item[1]), size)

    dataset = assembled(
        given,
        ImageReader[_Item](lambda item: _content(store, item[0]), target, transform),
        root=data.root,
        classes=classes,
        described=f"folder {data.root}",
        data=data,
        transform=transform,
        name_of=lambda item: item[0].address.removeprefix(listed.root + "/"),
        label_of=None if masks else _label,
        ignore_index=data.ignore_index if masks else None,
        threads=_REQUESTS,
    )
    is_large = isinstance(dataset.train, FileSamples)
    return replace(dataset, looked_at=SAMPLED_IMAGES if is_large else None)


def _label(item: _Item) -> int:
    assert isinstance(item[1], int)
    return item[1]


def remote_fingerprint(data: RemoteFolderData) -> str:
    """sha256 over the names, sizes and marks of change of all images and masks, and of the file
    that names the classes."""
    listed = _Listed(Store(data.storage), data.root)
    named = (entry for entry in listed.top if entry.name == CLASSES_FILE)
    digest = hashlib.sha256()
    for entry in (*named, *listed.files(listed.root)):
        digest.update(f"{entry.address}\t{entry.size}\t{entry.changed}\n".encode())
    return digest.hexdigest()


def _visible(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if not is_passed_over(entry.name)]


def _stem(address: str, folder: str) -> str:
    """The path below a folder, without the ending."""
    return address.removeprefix(folder + "/").rpartition(".")[0]


def _content(store: Store, entry: Entry) -> bytes:
    if entry.size:
        if entry.size > _MOST_FILE_BYTES:
            raise DataError(f"{entry.size:,} bytes, expected at most {_MOST_FILE_BYTES:,}")
        return store.read(entry.address, 0, entry.size)
    # Listings of web servers do not tell sizes.
    return store.read_file(entry.address, _MOST_FILE_BYTES)
