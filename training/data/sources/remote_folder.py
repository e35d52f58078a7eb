"""Folders of images behind a URL: one folder a class, or images/ with masks/.

A folder is listed once. The names of its files are kept in memory, about 200 bytes an image; the
files are read when a batch asks for them. Larger sets are better put into shards.
"""

import functools
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from serving.base.folders import IMAGE_SUFFIXES, is_passed_over, split_named
from serving.images.masks.folders import CLASSES_FILE, classes_in
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data.samples import SAMPLED_IMAGES, Dataset, FileSamples, Loaded, read_splits
from training.data.shards.masks import mask_reader
from training.data.split import complete
from training.data.storage import Entry, Store, joined, last_part
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
_NAMED = 5


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
        named = {
            split: entry.address
            for entry in self.top
            if entry.is_folder and (split := split_named(entry.name))
        }
        if named and "train" not in named:
            raise DataError(f"{self.root}: got {', '.join(named)}; expected a folder train beside")
        return named or {"train": self.root}

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
        folders = {
            split: [x for x in _visible(self.store.list(place)) if x.is_folder]
            for split, place in self.splits.items()
        }
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
            images, masks = joined(place, "images"), joined(place, "masks")
            by_stem = {
                _stem(entry.address, masks): entry
                for entry in self.files(masks)
                if entry.name.lower().endswith(".png")
            }
            found = self.files(images)
            missing = [x.name for x in found if _stem(x.address, images) not in by_stem]
            if missing:
                raise DataError(
                    f"{masks}: no mask for {', '.join(missing[:_NAMED])} ({len(missing)} in all); "
                    "expected NAME.png for images/NAME.*"
                )
            pairs[split] = [(x, by_stem[_stem(x.address, images)]) for x in found]
        return pairs


@data_errors()
def remote_folder(data: RemoteFolderData, transform: EvalTransform, *, masks: bool) -> Dataset:
    """The splits of a folder behind a URL; missing ones are cut from train. Images stay in memory
    where all fit. Raises DataError."""
    store = Store(data.storage)
    listed = _Listed(store, data.root)
    given: dict[str, list[_Item]]
    load: Callable[[_Item], Loaded]
    if masks:
        named = joined(data.root, CLASSES_FILE)
        classes = classes_in(named, store.read_file(named, _MOST_TEXT_BYTES))
        given = {split: list(pairs) for split, pairs in listed.masks().items()}
        load = _masked(store, transform, len(classes), data.ignore_index)
    else:
        by_class = listed.classes()
        classes = sorted(name for name, images in by_class["train"].items() if images)
        _check_classes(data.root, classes, by_class)
        given = {
            split: [(x, number) for number, name in enumerate(classes) for x in found.get(name, ())]
            for split, found in by_class.items()
        }
        load = _labelled(store, transform)
    if len(classes) < 2:
        raise DataError(f"{data.root}: expected at least two classes, got {classes}")
    try:
        parts, words = complete(
            given,
            lambda item: item[1] if isinstance(item[1], int) else 0,
            val_fraction=data.val_fraction,
            test_fraction=data.test_fraction,
            split_seed=data.split_seed,
        )
    except DataError as error:
        raise DataError(f"{data.root}: {error}") from error
    height, width = transform.size
    samples = read_splits(
        data.root,
        parts,
        lambda item: item[0].address.removeprefix(listed.root + "/"),
        load,
        height * width * (transform.channels + masks),
        threads=_REQUESTS,
    )
    for split, part in samples.items():
        if isinstance(part, FileSamples) and not masks:
            labels = [item[1] for item in parts[split] if isinstance(item[1], int)]
            part.class_counts = np.bincount(labels, minlength=len(classes))
    is_large = isinstance(samples["train"], FileSamples)
    return Dataset(
        name=last_part(data.root),
        description=f"folder {data.root}; {words}",
        classes=tuple(classes),
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        ignore_index=data.ignore_index if masks else None,
        looked_at=SAMPLED_IMAGES if is_large else None,
    )


def remote_fingerprint(data: RemoteFolderData) -> str:
    """sha256 over the names, sizes and marks of change of all images and masks, and of the file
    that names the classes."""
    listed = _Listed(Store(data.storage), data.root)
    named = (entry for entry in listed.top if entry.name == CLASSES_FILE)
    digest = hashlib.sha256()
    for entry in (*named, *listed.files(listed.root)):
        digest.update(f"{entry.address}\t{entry.size}\t{entry.changed}\n".encode())
    return digest.hexdigest()


def _check_classes(root: str, classes: list[str], found: dict[str, dict[str, list[Entry]]]) -> None:
    for split, by_class in found.items():
        strangers = sorted({name for name, images in by_class.items() if images} - set(classes))
        if strangers:
            raise DataError(
                f"{root}: folders {strangers[:_NAMED]} of {split} are not classes of train"
            )


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


def _labelled(store: Store, transform: EvalTransform) -> Callable[[_Item], Loaded]:
    def load(item: _Item) -> Loaded:
        image = load_image(_content(store, item[0]), transform)
        return Loaded(image.pixels, np.asarray(item[1], dtype=np.int64), image.size)

    return load


def _masked(
    store: Store, transform: EvalTransform, classes: int, ignore_index: int
) -> Callable[[_Item], Loaded]:
    read = mask_reader(transform, classes, ignore_index)

    def load(item: _Item) -> Loaded:
        assert isinstance(item[1], Entry)
        image = load_image(_content(store, item[0]), transform)
        return Loaded(image.pixels, read(_content(store, item[1]), image.size), image.size)

    return load
