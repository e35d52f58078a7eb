"""The index of a set of shards: its classes, splits and counts, as `convserve shards` writes it."""

import re
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.base.storage.address import joined, last_part
from serving.base.text import first_problem
from training.data.storage.store import Store
from training.errors import DataError

INDEX_FILE = "index.json"
_MOST_INDEX_BYTES = 256 << 20
# Shards that a pattern may stand for.
_MOST_SHARDS = 1_000_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*)\}")

Count = Annotated[int, Field(ge=0)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IndexedShard(_Document):
    """name: of the file beside the index; images and bytes: in it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.tar$")]
    images: Annotated[int, Field(ge=1)]
    bytes: Annotated[int, Field(ge=1)]


class IndexedSplit(_Document):
    """images: in all shards; by_class: images of each class, empty with masks."""

    images: Annotated[int, Field(ge=1)]
    by_class: tuple[Count, ...]
    shards: Annotated[tuple[IndexedShard, ...], Field(min_length=1, max_length=_MOST_SHARDS)]


class Index(_Document):
    """What INDEX_FILE holds.

    holds: what a sample has beside its image.
    ignore_index: of masks; None: masks are black and white, and 255 is the second class.
    """

    format: Literal[1] = 1
    holds: Literal["classes", "masks"]
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=1_000_000)]
    ignore_index: Annotated[int, Field(ge=0, le=255)] | None = None
    splits: dict[Literal["train", "val", "test"], IndexedSplit]


def read_index(store: Store, folder: str) -> Index | None:
    """The index in a folder; None where there is none. Raises DataError."""
    address = joined(folder, INDEX_FILE)
    if not store.exists(address):
        return None
    try:
        index = Index.model_validate_json(store.read_file(address, _MOST_INDEX_BYTES))
    except ValidationError as error:
        place, wrong = first_problem(error)
        raise DataError(f"{address}: {place or 'document'}: {wrong[:200]}") from error
    for name, split in index.splits.items():
        total = sum(shard.images for shard in split.shards)
        classes = len(index.classes) if index.holds == "classes" else 0
        by_class = sum(split.by_class) if classes else total
        if not total == by_class == split.images or len(split.by_class) != classes:
            raise DataError(f"{address}: splits.{name}: its counts do not agree")
    return index


def shard_addresses(store: Store, pattern: str) -> list[str]:
    """The shards that an address stands for: one .tar, braces ({000000..000099}, {a,b}), * and ? in
    the last part, or all shards of a folder. Raises DataError where there are none."""
    found: list[str] = []
    for address in _expanded(pattern):
        if any(wild in last_part(address) for wild in "*?"):
            folder = address.rpartition("/")[0] or "."
            found += [
                entry.address
                for entry in store.list(folder)
                if fnmatchcase(entry.name, last_part(address)) and entry.name.endswith(".tar")
            ]
        elif address.endswith(".tar"):
            found.append(address)
        elif address.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
            raise DataError(f"{address}: is compressed; expected plain .tar files")
        else:
            found += [x.address for x in store.list(address) if x.name.endswith(".tar")]
    if not found:
        raise DataError(f"{pattern}: no shards; expected files that end in .tar")
    if len(set(found)) < len(found):
        raise DataError(f"{pattern}: names a shard twice")
    return found


def _expanded(pattern: str) -> list[str]:
    done, left = [], [pattern]
    while left:
        text = left.pop()
        match = _BRACES.search(text)
        if match is None:
            done.append(text)
        elif match[1] is not None:
            first, last = int(match[1]), int(match[2])
            if last < first or last - first >= _MOST_SHARDS:
                raise DataError(
                    f"{pattern[:200]}: expected {{FIRST..LAST}} of at most {_MOST_SHARDS:,} shards"
                )
            width = len(match[1])
            middle = [f"{number:0{width}}" for number in range(last, first - 1, -1)]
            left += [text[: match.start()] + x + text[match.end() :] for x in middle]
        else:
            middle = match[3].split(",")[::-1]
            left += [text[: match.start()] + x + text[match.end() :] for x in middle]
        if len(done) + len(left) > _MOST_SHARDS:
            raise DataError(f"{pattern[:200]}: stands for more than {_MOST_SHARDS:,} shards")
    return done
