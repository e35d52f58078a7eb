"""The table of a shard: where each sample's image and target lie in it.

A table takes 28 bytes an image and its key. It is made by one pass over the shard's headers, and
kept: beside the shard (train-000000.tar, train-000000.idx) by `convserve shards`, in the user's
cache folder ($XDG_CACHE_HOME/convserve/shards) for shards of others.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.base.folders import IMAGE_SUFFIXES
from serving.base.storage.address import is_url, last_part
from serving.base.storage.store import RANGE_BYTES
from training.data.shards.tar import BLOCK, Member, Read, members
from training.data.storage.store import Store
from training.errors import DataError

log = logging.getLogger(__name__)

INDEX_SUFFIX = ".idx"
MASK_ENDINGS = ("seg.png", "mask.png")
# Changes where tables of before can no longer be read.
_FORMAT = 1
# Largest image or mask file. Larger ones would fill the shuffle window's memory.
_MOST_BYTES = 64 << 20
# Largest .cls, .txt or .json.
_MOST_LABEL_BYTES = 64 << 10
# Different labels of a shard; more are captions.
_MOST_LABELS = 65_536
# Tables that are kept in memory. More help random reads over many shards.
_KEPT_TABLES = 128
# Bytes that a pass over the headers of a local shard reads at a time.
_LOCAL_READ = 16 << 10
_LABEL_ENDINGS = ("cls", "json", "txt")
_IMAGE_ENDINGS = tuple(ending.removeprefix(".") for ending in IMAGE_SUFFIXES)
# Fields of .json that may hold the class, where the recipe names none.
_JSON_FIELDS = ("label", "class", "cls", "class_name", "category")

ROW = np.dtype(
    [
        ("image", "<i8"),
        ("image_size", "<u4"),
        ("mask", "<i8"),
        ("mask_size", "<u4"),
        ("label", "<i4"),
    ]
)
Rows = NDArray[np.void]


@dataclass(frozen=True)
class Layout:
    """What a sample holds beside its image.

    masks: a mask instead of a label.
    label_field: the field of .json that holds the class; None: the first of several names.
    skip: samples without image or target are left out instead of refused.
    """

    masks: bool
    label_field: str | None = None
    skip: bool = False


class Table(NamedTuple):
    """The samples of a shard in their order.

    rows: [n] of ROW: offsets and sizes of the files; `label` is an index of `labels`, -1 with
        masks.
    keys: the name of each sample.
    labels: the labels as the shard has them; "#7" is a number, "=cat" a name.
    bad: samples that were left out.
    source: a hash of the files that the shard was written from, empty for shards of others.
    """

    rows: Rows
    keys: Sequence[str]
    labels: Sequence[str]
    bad: int = 0
    source: str = ""


class Tables:
    """The tables of shards, of which the last few used are in memory."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._store = store
        self.layout = layout
        self._kept: OrderedDict[str, Table] = OrderedDict()
        self._lock = Lock()

    def of(self, address: str, images: int | None = None) -> Table:
        """The table of a shard. `images`: their number as the set's index has it, for shards with
        a table beside them. Raises DataError."""
        with self._lock:
            if address in self._kept:
                self._kept.move_to_end(address)
                return self._kept[address]
        table = None if images is None else self._beside(address)
        if table is None:
            table = self._cached(address)
        lacking = table.rows["mask_size"] == 0 if self.layout.masks else table.rows["label"] < 0
        if lacking.any():
            raise DataError(f"{table_address(address)}: is damaged, or of another kind of set")
        if images is not None and len(table.rows) != images:
            raise DataError(
                f"{address}: has {len(table.rows):,} samples, its set's index says {images:,}"
            )
        with self._lock:
            self._kept[address] = table
            while len(self._kept) > _KEPT_TABLES:
                self._kept.popitem(last=False)
        return table

    def _beside(self, address: str) -> Table | None:
        place = table_address(address)
        if not self._store.exists(place):
            return None
        size = self._store.entry(address).size
        return parsed(self._store.read_file(place, _limit(size)), size, place)

    def _cached(self, address: str) -> Table:
        entry = self._store.entry(address)
        facts = [_FORMAT, _absolute(address), entry.size, entry.changed, repr(self.layout)]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        file = _cache_folder() / f"{digest}{INDEX_SUFFIX}"
        try:
            return parsed(file.read_bytes(), entry.size, str(file))
        except (OSError, DataError):
            table = scan(self._store, address, entry.size, self.layout)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as partial:
                partial.write(as_bytes(table))
            Path(partial.name).replace(file)
        except OSError as error:
            log.warning("data: %s cannot be kept (%s): it is made anew", file, error.strerror)
        return table


def table_address(address: str) -> str:
    return address.removesuffix(".tar") + INDEX_SUFFIX


def as_bytes(table: Table) -> bytes:
    """A line of JSON, the rows, and the keys a line each."""
    head = {
        "format": _FORMAT,
        "images": len(table.rows),
        "labels": list(table.labels),
        "bad": table.bad,
        "source": table.source,
    }
    keys = "\n".join(table.keys)
    return json.dumps(head).encode() + b"\n" + table.rows.tobytes() + keys.encode()


def parsed(data: bytes, size: int, shown: str) -> Table:
    """The table in a file, for a shard of `size` bytes. Raises DataError where the file is damaged
    or places lie outside of the shard."""
    try:
        line, _, rest = data.partition(b"\n")
        head = json.loads(line)
        count, labels = int(head["images"]), [str(label) for label in head["labels"]]
        if head["format"] != _FORMAT or not 0 <= count <= len(rest) // ROW.itemsize:
            raise ValueError
        rows = np.frombuffer(rest, ROW, count)
        keys = rest[count * ROW.itemsize :].decode().split("\n") if count else []
        ends = [rows[name] + rows[f"{name}_size"].astype(np.int64) for name in ("image", "mask")]
        small = all((rows[f"{name}_size"] <= _MOST_BYTES).all() for name in ("image", "mask"))
        inside = all((end <= size).all() for end in ends) and (rows["image"] >= BLOCK).all()
        known = (rows["label"] < max(1, len(labels))).all() and (rows["label"] >= -1).all()
        if len(keys) != count or not (inside and small and known) or (rows["mask"] < 0).any():
            raise ValueError
        return Table(rows, keys, labels, int(head["bad"]), str(head["source"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{shown}: is damaged, or of another shard; delete it") from error


def scan(store: Store, address: str, size: int, layout: Layout) -> Table:
    """The table of a shard from its headers, in one pass; a local file is read at its headers only,
    one behind a URL from front to end. Raises DataError naming the sample."""
    read = _read_ahead(store, address, size)
    rows: list[tuple[int, int, int, int, int]] = []
    keys: list[str] = []
    labels: dict[str, int] = {}
    bad, first_bad = 0, ""
    for key, files in _samples(members(read, size, address)):
        try:
            image, target = _parts(key, files, layout)
            label = -1
            if not layout.masks:
                text = _label(target, read(target.offset, target.offset + target.size), layout)
                label = labels.setdefault(text, len(labels))
                if len(labels) > _MOST_LABELS:
                    raise DataError(
                        f"{address}: more than {_MOST_LABELS:,} different labels, such as "
                        f"{text[:60]!r}; expected classes: are these captions?"
                    )
        except _BadSample as error:
            if not layout.skip:
                raise DataError(f"{address}: {_clean(key)}: {error}") from error
            bad, first_bad = bad + 1, first_bad or f"{_clean(key)}: {error}"
            continue
        mask = (target.offset, target.size) if layout.masks else (0, 0)
        rows.append((image.offset, image.size, *mask, label))
        keys.append(_clean(key))
    if bad:
        log.warning("data: %s: %d samples left out, such as %s", address, bad, first_bad)
    return Table(np.array(rows, ROW), keys, list(labels), bad)


class _BadSample(Exception):
    """A sample that cannot be used."""


def _samples(found: Iterator[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Runs of members with equal keys: the key, and the members by their ending."""
    current, files = "", dict[str, Member]()
    for member in found:
        folder, slash, base = member.name.rpartition("/")
        stem, dot, ending = base.partition(".")
        # Hidden files, and those that WebDataset writes about itself.
        if not stem or not dot or base.startswith("__"):
            continue
        key, ending = folder + slash + stem, ending.lower()
        if files and (key != current or ending in files):
            yield current, files
            files = {}
        current = key
        files[ending] = member
    if files:
        yield current, files


def _parts(key: str, files: dict[str, Member], layout: Layout) -> tuple[Member, Member]:
    """The image of a sample and its mask or label."""
    wanted = MASK_ENDINGS if layout.masks else _LABEL_ENDINGS
    targets = [files[ending] for ending in wanted if ending in files]
    images = [
        member
        for ending, member in files.items()
        if ending not in MASK_ENDINGS and ending.rpartition(".")[2] in _IMAGE_ENDINGS
    ]
    if not images:
        raise _BadSample(f"no image; expected one of {', '.join(_IMAGE_ENDINGS)}")
    if len(images) > 1:
        raise _BadSample(f"{len(images)} images; expected one")
    if not targets:
        raise _BadSample(
            f"no {'mask' if layout.masks else 'label'}; expected .{', .'.join(wanted)}"
        )
    image, target = images[0], targets[0]
    most = _MOST_BYTES if layout.masks else _MOST_LABEL_BYTES
    for member, limit in ((image, _MOST_BYTES), (target, most)):
        if member.size > limit:
            raise _BadSample(f"a file of {member.size:,} bytes; expected at most {limit:,}")
    return image, target


def _label(member: Member, content: bytes, layout: Layout) -> str:
    """A label as Table.labels holds it."""
    try:
        text = content.decode().strip()
        if not member.name.lower().endswith(".json"):
            number = member.name.lower().endswith(".cls") and text.isascii() and text.isdigit()
            return _number(text) if number else _named(text)
        fields = json.loads(text)
        names = _JSON_FIELDS if layout.label_field is None else (layout.label_field,)
        value = next((fields[name] for name in names if name in fields), None)
    except (ValueError, TypeError, RecursionError) as error:
        raise _BadSample("a label that cannot be read") from error
    if isinstance(value, int) and not isinstance(value, bool):
        return _number(str(value))
    if isinstance(value, str):
        return _named(value.strip())
    raise _BadSample(
        f"a .json without a class; expected {' or '.join(names)}: see data.label_field"
    )


def _number(text: str) -> str:
    if not text.isdigit() or len(text) > 9:
        raise _BadSample(f"label {text[:20]}: expected a number from 0")
    return f"#{int(text)}"


def _named(text: str) -> str:
    if not text or len(text) > 200 or not text.isprintable():
        raise _BadSample("a label that is empty, longer than 200 characters or not printable")
    return f"={text}"


def _clean(key: str) -> str:
    """A key without line ends and the like."""
    return "".join(character if character.isprintable() else "?" for character in key)[:500]


def _read_ahead(store: Store, address: str, size: int) -> Read:
    """Reads of a file in ascending order, a stretch at a time."""
    stretch = RANGE_BYTES if is_url(address) else _LOCAL_READ
    held, first = b"", 0

    def read(start: int, end: int) -> bytes:
        nonlocal held, first
        if not first <= start <= end <= first + len(held):
            first = start
            held = store.read(address, start, min(size, max(end, start + stretch)))
        return held[start - first : end - first]

    return read


def _limit(shard_bytes: int) -> int:
    """The most bytes that a shard's table may have: of a sample there are two headers at least."""
    return (1 << 20) + shard_bytes // (2 * BLOCK) * (ROW.itemsize + BLOCK)


def _absolute(address: str) -> str:
    return address if is_url(address) else str(Path(address).resolve())


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "convserve" / "shards"


def shard_name(address: str) -> str:
    """A shard's name in reports."""
    return last_part(address)
