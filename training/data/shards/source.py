"""Tar shards as a data set."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.base.machine.memory import free_memory
from serving.base.storage.address import joined, last_part
from serving.repository.manifest import EvalTransform
from training.data.readers import ImageReader, Targets
from training.data.samples import SAMPLED_IMAGES, Dataset
from training.data.shards.index import INDEX_FILE, Index, IndexedSplit, read_index, shard_addresses
from training.data.shards.masks import MOST_CLASSES, mask_reader
from training.data.shards.samples import STREAM_BYTES, Encoded, Part, ShardSamples
from training.data.shards.tables import Layout, Tables
from training.data.split import SPLITS
from training.data.storage.store import Store
from training.errors import DataError, data_errors
from training.recipes.remote.sources import ShardsData

log = logging.getLogger(__name__)

# Shards whose headers are read at once, where there is no index.
_SCANS = 8
_NAMED = 5


@dataclass(frozen=True)
class _Found:
    """A set of shards.

    index: where its splits come from one.
    splits: the shards of each split that is there, with their number of images where an index
        tells it.
    """

    index: Index | None
    splits: dict[str, list[tuple[str, int | None]]] = field(default_factory=dict)


@data_errors()
def shard_set(data: ShardsData, eval_transform: EvalTransform, *, masks: bool) -> Dataset:
    """The splits of a set of shards, streamed. Raises DataError naming shard and key."""
    store = Store(data.storage)
    found = _find(store, data)
    index = found.index
    if index is not None and (index.holds == "masks") != masks:
        raise DataError(
            f"{data.train}: holds {index.holds}; expected {'masks' if masks else 'classes'}"
        )
    tables = Tables(store, Layout(masks, data.label_field, data.on_error == "skip"))
    parts = {
        split: _parts(tables, shards, f"{data.train if split == 'train' else split}")
        for split, shards in found.splits.items()
    }
    words = _complete(parts, data)
    classes, class_of = _classes(data, index, tables, parts["train"], masks=masks)
    target = _mask(data, index, len(classes)) if masks else _label
    decode = ImageReader[Encoded](lambda encoded: encoded.image, target, eval_transform)
    held = _window_bytes(store, parts["train"], data.shuffle_window)
    samples = {
        split: ShardSamples(
            store,
            tables,
            parts[split],
            class_of,
            decode,
            data.shuffle_window,
            held,
            None if masks else _counts(tables, parts[split], index, split, class_of, len(classes)),
            skip=split == "train" and data.on_error == "skip",
        )
        for split in SPLITS
    }
    first = data.train if isinstance(data.train, str) else data.train[0]
    name = last_part(first)
    return Dataset(
        name=name,
        description=f"{sum(map(len, parts.values())):,} shards of {first}; {words}",
        classes=classes,
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        ignore_index=_ignored(data, index) if masks else None,
        looked_at=SAMPLED_IMAGES,
        skips=("train",) if data.on_error == "skip" else (),
    )


def shards_fingerprint(data: ShardsData) -> str:
    """sha256 over the index, or over the addresses, sizes and marks of change of the shards."""
    store = Store(data.storage)
    found = _find(store, data)
    if found.index is not None:
        text = found.index.model_dump_json()
    else:
        addresses = [address for shards in found.splits.values() for address, _ in shards]
        with ThreadPoolExecutor(_SCANS) as pool:
            entries = list(pool.map(store.entry, addresses))
        text = "\n".join(f"{x.address}\t{x.size}\t{x.changed}" for x in entries)
    return hashlib.sha256(text.encode()).hexdigest()


def _find(store: Store, data: ShardsData) -> _Found:
    if isinstance(data.train, str) and not data.train.endswith(".tar"):
        index = read_index(store, data.train) if not _is_pattern(data.train) else None
        if index is not None:
            return _indexed(data, data.train, index)
    given = {"train": data.train, "val": data.val, "test": data.test}
    splits: dict[str, list[tuple[str, int | None]]] = {}
    for split, patterns in given.items():
        if patterns is not None:
            each = (patterns,) if isinstance(patterns, str) else patterns
            splits[split] = [(x, None) for one in each for x in shard_addresses(store, one)]
    return _Found(None, splits)


def _indexed(data: ShardsData, folder: str, index: Index) -> _Found:
    if data.val is not None or data.test is not None:
        raise DataError(
            f"{joined(folder, INDEX_FILE)}: names the splits; leave data.val and data.test out, or "
            "name the .tar files of all three"
        )
    if "train" not in index.splits:
        raise DataError(f"{joined(folder, INDEX_FILE)}: has no split train")
    return _Found(
        index,
        {
            split: [(joined(folder, shard.name), shard.images) for shard in listed.shards]
            for split, listed in index.splits.items()
        },
    )


def _is_pattern(address: str) -> bool:
    return any(mark in address for mark in "*?{")


def _parts(tables: Tables, shards: Sequence[tuple[str, int | None]], shown: str) -> list[Part]:
    """The shards of a split with their numbers of images: those without are read once."""
    unknown = [address for address, images in shards if images is None]
    if unknown:
        log.info("data: %s: looking for the images of %d shards", shown, len(unknown))
    with ThreadPoolExecutor(_SCANS) as pool:
        counts = dict(
            zip(unknown, pool.map(lambda x: len(tables.of(x).rows), unknown), strict=True)
        )
    parts = [
        Part(address, counts[address] if images is None else images, images)
        for address, images in shards
    ]
    parts = [part for part in parts if part.images]
    if not parts:
        raise DataError(f"{shown}: the shards hold no images")
    return parts


def _complete(parts: dict[str, list[Part]], data: ShardsData) -> str:
    """Cuts splits that are not there from train, a share of each shard; gives it in words."""
    words = []
    for name, share in (("test", data.test_fraction), ("val", data.val_fraction)):
        if name in parts:
            continue
        kept: list[Part] = []
        out: list[Part] = []
        # Rounded up, as the cut of other sources.
        wanted = 1.0 - 1e-6
        for place, part in enumerate(parts["train"]):
            low, high = part.cut or (0, part.images)
            wanted += share * (high - low)
            count = min(int(wanted), high - low)
            wanted -= count
            seed = (data.split_seed, place)
            for chosen, cut in ((out, (low, low + count)), (kept, (low + count, high))):
                if cut[1] > cut[0]:
                    size = cut[1] - cut[0]
                    chosen.append(Part(part.address, size, part.indexed, cut, seed))
        if not kept or not out:
            raise DataError(f"no images for {name}; train has too few to cut some")
        parts[name], parts["train"] = out, kept
        words.append(f"{name} cut from train (seed {data.split_seed})")
    return ", ".join(words) or "splits as given"


def _classes(
    data: ShardsData,
    index: Index | None,
    tables: Tables,
    train: Sequence[Part],
    *,
    masks: bool,
) -> tuple[tuple[str, ...], Callable[[str], int]]:
    """The names of the classes, and the class of each label as tables have it."""
    names: Sequence[str]
    by_name = False
    if index is not None:
        if data.classes is not None and data.classes != index.classes:
            raise DataError("data.classes: the shards' index names the classes; leave it out")
        names = index.classes
    elif data.classes is not None:
        names = data.classes
    elif masks:
        raise DataError("data.classes: missing; expected a name for each value of the masks")
    else:
        labels = {label for part in train for label in tables.of(part.address).labels}
        if all(label.startswith("#") for label in labels):
            largest = max(int(label[1:]) for label in labels)
            images = sum(part.images for part in train)
            if largest >= images:
                raise DataError(
                    f"{train[0].address}: label {largest} is larger than the number of images, "
                    f"{images}; expected classes counted from 0"
                )
            names = [str(number) for number in range(largest + 1)]
        else:
            # Numbers among names are names too: "7" beside "7b".
            names, by_name = sorted({label[1:] for label in labels}), True
    if len(set(names)) < len(names):
        raise DataError("data.classes: names a class twice")
    if len(names) < 2:
        raise DataError(f"{train[0].address}: expected at least two classes, got {list(names)}")
    if masks and len(names) > MOST_CLASSES:
        raise DataError(
            f"{train[0].address}: {len(names):,} classes of masks; expected at most {MOST_CLASSES}"
        )
    numbers = {name: number for number, name in enumerate(names)}

    def class_of(label: str) -> int:
        is_number = label.startswith("#") and not by_name
        if is_number and int(label[1:]) < len(names):
            return int(label[1:])
        shown = label[1:]
        if is_number or shown not in numbers:
            some = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            raise DataError(
                f"label {shown[:60]!r}: expected 0 to {len(names) - 1} or one of {some}; "
                "see data.classes"
            )
        return numbers[shown]

    return tuple(names), class_of


def _counts(
    tables: Tables,
    parts: Sequence[Part],
    index: Index | None,
    split: str,
    class_of: Callable[[str], int],
    classes: int,
) -> NDArray[np.int64]:
    """Images of each class. Raises DataError naming shard and key of a label that is none, unless
    such images are skipped."""
    listed: IndexedSplit | None = None if index is None else index.splits.get(split)  # type: ignore[call-overload]
    if listed is not None and all(part.cut is None for part in parts):
        return np.array(listed.by_class, np.int64)
    counts = np.zeros(classes, np.int64)
    for part in parts:
        table = tables.of(part.address, part.indexed)
        rows = part.rows(table)
        for label, count in enumerate(np.bincount(rows["label"], minlength=len(table.labels))):
            if count:
                try:
                    counts[class_of(table.labels[label])] += count
                except DataError as error:
                    if tables.layout.skip:
                        continue
                    key = table.keys[int(np.flatnonzero(table.rows["label"] == label)[0])]
                    raise DataError(f"{part.address}: {key}: {error}") from error
    return counts


def _label(encoded: Encoded, size: tuple[int, int]) -> Targets:
    return np.asarray(encoded.target, np.int64)


def _ignored(data: ShardsData, index: Index | None) -> int | None:
    return data.ignore_index if index is None else index.ignore_index


def _mask(
    data: ShardsData, index: Index | None, classes: int
) -> Callable[[Encoded, tuple[int, int]], Targets]:
    read = mask_reader(classes, _ignored(data, index))

    def target(encoded: Encoded, size: tuple[int, int]) -> Targets:
        assert isinstance(encoded.target, bytes)
        return read(encoded.target, size)

    return target


def _window_bytes(store: Store, train: Sequence[Part], window: int) -> int:
    """Memory that the stream of training images takes, about: by the bytes of its first shard.
    Raises DataError where it is more than there is."""
    part = train[0]
    mean = store.entry(part.address).size / (part.indexed or part.images)
    images = min(window, sum(part.images for part in train))
    held, free = int(images * mean) + STREAM_BYTES, free_memory()
    log.info(
        "data: shuffled in a window of %s images, about %s MB of memory in each process",
        f"{images:,}",
        f"{held / 1e6:,.0f}",
    )
    if held > free:
        raise DataError(
            f"data.shuffle_window: {images:,} images of {mean / 1e3:,.0f} KB each take about "
            f"{held / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; expected at most "
            f"{max(0, int((free - STREAM_BYTES) / mean)):,}"
        )
    return held
