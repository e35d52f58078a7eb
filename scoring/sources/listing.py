"""The images of a job, listed once, in one order, in a file.

A source is walked as it comes; its images are sorted by name in runs of bounded memory, which are
merged. The file is Parquet, so that any piece of it can be read without the rest. A job that goes
on lists the source again and compares.
"""

import hashlib
import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from scoring.errors import ScoringError
from scoring.sources.item import Item, Source, text_of
from serving.base.errors import quoted

# Images that are sorted in memory at a time, some 300 bytes each. More make fewer runs to merge.
_RUN = 200_000
# Images of a run that are in memory while runs are merged. More read faster, of a hundred million
# images there are 500 runs.
_MERGED = 1024
# Images of a piece of the file, which is read as a whole.
_PIECE = 1 << 16

_SCHEMA = pa.schema(
    [
        ("name", pa.binary()),
        ("size", pa.int64()),
        ("changed", pa.string()),
        ("shard", pa.binary()),
        ("offset", pa.int64()),
    ]
)


class Block(NamedTuple):
    """Neighbours in the listing.

    start: the number of the first.
    """

    start: int
    items: Sequence[Item]


class Listing:
    """A listing in a file.

    count: images in it.
    sha256: of all that it says.
    """

    def __init__(self, file: Path, count: int, sha256: str) -> None:
        self.file = file
        self.count = count
        self.sha256 = sha256

    def blocks(self, ranges: Iterable[tuple[int, int]], size: int) -> Iterator[Block]:
        """The images in ranges of numbers, in blocks of at most `size`."""
        with pq.ParquetFile(self.file) as opened:
            at, piece = -1, list[Item]()
            for start, stop in ranges:
                while start < stop:
                    number, skipped = divmod(start, _PIECE)
                    if number != at:
                        at, piece = number, _items(opened.read_row_group(number))
                    taken = piece[skipped : min(skipped + size, skipped + stop - start)]
                    yield Block(start, taken)
                    start += len(taken)

    def __iter__(self) -> Iterator[Item]:
        return _stored(self.file, _PIECE)


def take_listing(source: Source, file: Path, listed: Callable[[int], None]) -> Listing:
    """Lists a source into a file. listed: called with the number of each run that is done.

    Raises ScoringError where it cannot be listed, has no images, or names one twice.
    """
    digest, count, last = hashlib.sha256(), 0, None
    with (
        tempfile.TemporaryDirectory(dir=file.parent, prefix=".runs-") as folder,
        pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer,
    ):
        for piece in _pieces(_sorted(source, Path(folder), listed), _PIECE):
            for item in piece:
                if last is not None and item[0] == last[0] and item[4] == last[4]:
                    raise ScoringError(f"{source.address}: lists {shown(item)} twice")
                digest.update(repr(tuple(item)).encode())
                last = item
            writer.write_table(_table(piece), row_group_size=_PIECE)
            count += len(piece)
    return Listing(file, count, digest.hexdigest())


def difference(old: Iterable[Item], new: Iterable[Item]) -> str:
    """The first difference between two listings in words; empty where there is none."""
    befores, afters = iter(old), iter(new)
    while True:
        before, after = next(befores, None), next(afters, None)
        if before == after:
            if before is None:
                return ""
        elif after is None or (before is not None and _place(before) < _place(after)):
            assert before is not None
            return f"{shown(before)} is gone"
        elif before is None or _place(after) < _place(before):
            return f"{shown(after)} is new"
        elif before.size != after.size:
            return f"{shown(after)} has {after.size:,} bytes, it had {before.size:,}"
        else:
            return f"{shown(after)} was written anew"


def shown(item: Item) -> str:
    """The name of an image in a message."""
    return quoted(text_of(item.name)[0])


def _place(item: Item) -> tuple[bytes, int]:
    return item.name, item.offset


def _sorted(source: Source, folder: Path, listed: Callable[[int], None]) -> Iterator[Item]:
    """The images of a source by name; runs that do not fit into memory lie in `folder`."""
    runs: list[Path] = []
    for run in _pieces(source.items(), _RUN):
        run.sort()
        listed(len(run))
        if len(run) < _RUN and not runs:
            yield from run
            return
        runs.append(folder / f"{len(runs)}.parquet")
        with pq.ParquetWriter(runs[-1], _SCHEMA, compression="lz4") as writer:
            for piece in _pieces(iter(run), _MERGED * 8):
                writer.write_table(_table(piece))
    yield from heapq.merge(*(_stored(run, _MERGED) for run in runs))


def _pieces(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    piece: list[Item] = []
    for item in items:
        piece.append(item)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece


def _stored(file: Path, at_once: int) -> Iterator[Item]:
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(at_once):
            yield from _items(batch)


def _table(items: Sequence[Item]) -> pa.Table:
    columns = zip(*items, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.table(arrays, schema=_SCHEMA)


def _items(rows: pa.Table | pa.RecordBatch) -> list[Item]:
    return list(map(Item._make, zip(*(column.to_pylist() for column in rows.columns), strict=True)))
