"""Writes shards from the files of a data set: their bytes stay as they are."""

import hashlib
import io
import json
import logging
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serving.base.machine.progress import Progress
from serving.base.storage.address import is_url, joined
from serving.images.postprocess import resize_mask
from training.data.samples import Dataset, FileSamples
from training.data.sampling import spread_rows
from training.data.shards.index import INDEX_FILE, Index, IndexedShard, IndexedSplit
from training.data.shards.masks import mask_reader
from training.data.shards.tables import Layout, Table, as_bytes, parsed, scan, table_address
from training.data.split import SPLITS
from training.data.storage.store import Store
from training.errors import DataError

log = logging.getLogger(__name__)

_STATS = 16
_NAME_BYTES = 150
_MOST_TABLE_BYTES = 4 << 30
# Masks, evenly spread, whose values are compared with the classes.
_CHECKED_MASKS = 64
_PLAIN = "shards take masks in 8-bit PNG whose values are classes, counted from 0"


class _Sample(NamedTuple):
    """An image with its mask's file or the number of its class."""

    name: str
    image: Path
    target: Path | int


class Limits(NamedTuple):
    """Most images, and about the most bytes, of a shard."""

    images: int
    bytes: int


def write_shards(data: Dataset, out: str, limits: Limits, seed: int, store: Store) -> Index:
    """Writes OUT/SPLIT-000000.tar and the like, the table of each, and at last the index.

    Images of train are shuffled by `seed`, those of val and test stay in order. A shard appears in
    one step; shards that a run of before has written from the same files are kept. Raises
    DataError.
    """
    masks = _has_masks(data)
    if masks:
        _check_masks(data)
    splits: dict[str, IndexedSplit] = {}
    for split in SPLITS:
        samples = list(_samples(data, split))
        if split == "train":
            order = np.random.default_rng(seed).permutation(len(samples))
            samples = [samples[place] for place in order]
        splits[split] = _write_split(split, samples, out, limits, store, len(data.classes))
    index = Index(
        holds="masks" if masks else "classes",
        classes=data.classes,
        ignore_index=data.ignore_index,
        splits=splits,  # type: ignore[arg-type]
    )
    _put(store, (index.model_dump_json(indent=1) + "\n").encode(), joined(out, INDEX_FILE))
    return index


def _has_masks(data: Dataset) -> bool:
    return isinstance(next(_samples(data, "train")).target, Path)


def _check_masks(data: Dataset) -> None:
    """Raises DataError where the values of the masks' files are not the classes of the source,
    which may read colours or values by a rule: shards hold files as they are."""
    samples = data.train
    height, width = samples.batch([0])[0].shape[1:3]
    read = mask_reader(len(data.classes), data.ignore_index)
    files = list(_samples(data, "train"))
    for row in spread_rows(len(files), _CHECKED_MASKS).tolist():
        loaded, mask = samples.read([row])[0], files[row].target
        assert isinstance(mask, Path)
        try:
            if isinstance(loaded, str):
                raise DataError(loaded)
            found = resize_mask(read(mask.read_bytes(), loaded.size), height, width)
            same = np.array_equal(loaded.target, found)
        except DataError as error:
            raise DataError(f"{mask}: {error}; {_PLAIN}") from error
        if not same:
            raise DataError(f"{mask}: its values are not the numbers of the classes; {_PLAIN}")


def _samples(data: Dataset, split: str) -> Iterator[_Sample]:
    """The files of a split. Raises DataError for a source whose images are no files."""
    samples = getattr(data, split)
    items: Iterable[object] = samples.items if isinstance(samples, FileSamples) else [None]
    for number, item in enumerate(items):
        name = samples.names[number]
        match item:
            # An image with its mask, whatever class the source has for it.
            case object(path=Path() as image, mask=Path() as mask):
                yield _Sample(name, image, mask)
            # A row of a table, and a file of a folder.
            case object(path=Path() as image, spot=None, label=int(label)):
                yield _Sample(name, image, label)
            case (Path() as image, int(label)):
                yield _Sample(name, image, label)
            case _:
                raise DataError(
                    f"{data.name}: its images are no files with a class or a mask each; expected a "
                    "folder, a table of paths, or a folder of masks, as convserve extract writes "
                    "them"
                )


def _write_split(
    split: str,
    samples: Sequence[_Sample],
    out: str,
    limits: Limits,
    store: Store,
    classes: int,
) -> IndexedSplit:
    shards: list[IndexedShard] = []
    by_class = np.zeros(classes, np.int64)
    done = 0
    with Progress(f"shards: {split}", len(samples)) as progress:
        for number, chosen in enumerate(_cut(samples, limits)):
            name = f"{split}-{number:06}.tar"
            table, size, kept = _write_shard(joined(out, name), chosen, store)
            shards.append(IndexedShard(name=name, images=len(chosen), bytes=size))
            labels = [sample.target for sample in chosen if isinstance(sample.target, int)]
            by_class += np.bincount(labels, minlength=classes)
            done += len(table.rows)
            progress.advance(len(table.rows))
            log.info(
                "%s: %s images, %s MB%s (%s of %s of %s)",
                name,
                f"{len(chosen):,}",
                f"{size / 1e6:,.1f}",
                ", kept" if kept else "",
                f"{done:,}",
                f"{len(samples):,}",
                split,
            )
    counts = tuple(by_class.tolist()) if by_class.any() else ()
    return IndexedSplit(images=done, by_class=counts, shards=tuple(shards))


def _cut(samples: Sequence[_Sample], limits: Limits) -> Iterator[list[_Sample]]:
    """The samples of each shard: the files' sizes alone decide."""
    with ThreadPoolExecutor(_STATS) as pool:
        chosen: list[_Sample] = []
        held = 0
        for start in range(0, len(samples), limits.images):
            block = samples[start : start + limits.images]
            for sample, size in zip(block, pool.map(_size, block), strict=True):
                if chosen and (len(chosen) == limits.images or held + size > limits.bytes):
                    yield chosen
                    chosen, held = [], 0
                chosen.append(sample)
                held += size
        if chosen:
            yield chosen


def _size(sample: _Sample) -> int:
    return sum(x.stat().st_size for x in (sample.image, sample.target) if isinstance(x, Path))


def _write_shard(address: str, samples: list[_Sample], store: Store) -> tuple[Table, int, bool]:
    """Writes a shard and then its table, which says that the shard is whole. Gives the table, the
    shard's bytes, and whether it was there already."""
    source = _source(samples)
    former = _former(address, source, store)
    if former is not None:
        return *former, True
    layout = Layout(masks=isinstance(samples[0].target, Path))
    folder = None if is_url(address) else Path(address).parent
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".shard-") as place:
        file = Path(place) / "shard.tar"
        used: set[str] = set()
        tar_file(
            file,
            ((_key(x.name, used), x.image.suffix.lower(), x.image, x.target) for x in samples),
        )
        size = file.stat().st_size
        table = scan(store, str(file), size, layout)._replace(source=source)
        if len(table.rows) != len(samples):
            raise DataError(f"{address}: {len(table.rows)} of {len(samples)} samples were written")
        store.put(file, address)
    _put(store, as_bytes(table), table_address(address))
    return table, size, False


def _former(address: str, source: str, store: Store) -> tuple[Table, int] | None:
    """The table and the size of a shard that was written from the same files."""
    place = table_address(address)
    if not (store.exists(place) and store.exists(address)):
        return None
    size = store.entry(address).size
    try:
        table = parsed(store.read_file(place, _MOST_TABLE_BYTES), size, place)
    except DataError:
        return None
    return (table, size) if table.source == source else None


def _source(samples: Sequence[_Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        facts: list[object] = [sample.name]
        for part in (sample.image, sample.target):
            status = part.stat() if isinstance(part, Path) else None
            facts.append(part if status is None else [status.st_size, status.st_mtime_ns])
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def tar_file(file: Path, samples: Iterable[tuple[str, str, Path | bytes, Path | int]]) -> None:
    """Writes a shard of samples: key, ending of the image, image, and mask or class."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, ending, image, target in samples:
            _add(tar, f"{key}{ending}", image)
            if isinstance(target, Path):
                _add(tar, f"{key}.seg.png", target)
            else:
                _add(tar, f"{key}.cls", str(target).encode())


def _key(name: str, used: set[str]) -> str:
    """A name without ending as WebDataset wants it: no dots, and none twice in a shard."""
    stem = name.rpartition(".")[0] or name
    parts = ["".join(x if x.isprintable() else "_" for x in part) for part in stem.split("/")]
    clean = "/".join(part.replace(".", "_") for part in parts if part.strip("."))
    clean = clean.encode(errors="replace")[-_NAME_BYTES:].decode(errors="ignore").strip("/") or "_"
    key, number = clean, 2
    while key in used:
        key, number = f"{clean}-{number}", number + 1
    used.add(key)
    return key


def _add(tar: tarfile.TarFile, name: str, content: Path | bytes) -> None:
    info = tarfile.TarInfo(name)
    if isinstance(content, bytes):
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        return
    try:
        with content.open("rb") as file:
            info.size = content.stat().st_size
            tar.addfile(info, file)
    except OSError as error:
        raise DataError(f"{content}: cannot be read: {error.strerror or error}") from error
    # tarfile keeps every member that it has written.
    tar.members.clear()  # type: ignore[attr-defined]


def _put(store: Store, content: bytes, address: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "file"
        file.write_bytes(content)
        store.put(file, address)
