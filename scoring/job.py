"""The folder of a job: its facts, its listing, and the rows so far.

The rows lie in parts, each a Parquet file that appears in one step, named by the numbers of its
images: `part-<start>-<stop>.parquet`. What no part has is still to be scored. A job for
`results.parquet` works in `results.parquet.parts/` and joins the parts at its end, in one step
too; a job for a folder leaves the parts in it, as a data set of many files, with `_SUCCESS`.
"""

import fcntl
import itertools
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from scoring.errors import ScoringError
from scoring.facts import Facts
from scoring.rows import failed_in
from scoring.sources.item import Source
from scoring.sources.listing import Listing, difference, take_listing
from serving.base.errors import quoted
from serving.base.files import read_file
from serving.base.machine.progress import Progress

# The key of the facts in the table's own metadata.
METADATA = b"convserve"
SUFFIX = ".parquet"
_FACTS, _LISTING, _LOCK, _DONE = "_job.json", "_listing.parquet", "_lock", "_SUCCESS"
# Files of a job beside its facts, its parts and its end; those with a dot are not whole yet.
_OWN = re.compile(
    r"_lock|_listing\.parquet|\.(runs-.*|part-.*|joined|_job\.json|_listing\.parquet|_SUCCESS)"
)
_PART = re.compile(r"part-(\d{12,})-(\d{12,})\.parquet")
# Rows and seconds after which rows are written. More make fewer parts, fewer lose less of a job
# that is killed.
_PART_ROWS, _PART_SECONDS = 1 << 16, 10.0


class Part(NamedTuple):
    """The rows of the images from `start` to before `stop`, in a file."""

    start: int
    stop: int
    file: Path


class Job:
    """The folder of one job, which one process at a time has: `with Job(out) as job`.

    began: the facts that it began with, by its folder or by the finished table; None for a new one.
    finished: there is nothing left to do.
    """

    def __init__(self, out: Path) -> None:
        """Raises ScoringError where the place is taken by something else, or by another process."""
        self.out = out
        self._joins = out.name.lower().endswith(SUFFIX)
        self.folder = out.with_name(f"{out.name}.parts") if self._joins else out
        self.began: Facts | None = None
        self.finished = False
        self._fresh = not self.folder.exists()

    def __enter__(self) -> "Job":
        if not str(self.out).isprintable():  # Arrow opens files by their names in UTF-8
            raise ScoringError(f"--out {quoted(str(self.out))}: expected a printable name in UTF-8")
        try:
            self._check_place()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise ScoringError(f"--out {quoted(str(self.out))}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ScoringError(f"{self.folder}: another process works on this job") from error
        try:
            if not os.fstat(self._lock).st_nlink:  # its process ended it meanwhile
                raise ScoringError(f"{self.folder}: another process worked on this job; try again")
            self._look()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.began is None or (self._joins and self.finished):
            if self._joins or self._fresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            else:
                _remove_own(self.folder, "")
        elif self.finished:
            (self.folder / _LISTING).unlink(missing_ok=True)
        os.close(self._lock)

    def _check_place(self) -> None:
        if self._joins and self.out.is_dir():
            raise ScoringError(f"--out {quoted(str(self.out))}: is a folder; expected a file")
        if not self._joins and self.out.exists() and not self.out.is_dir():
            raise ScoringError(
                f"--out {quoted(str(self.out))}: expected a folder, or a name that ends in {SUFFIX}"
            )
        if not self._fresh and not (self.folder / _FACTS).exists():
            others = [x.name for x in self.folder.iterdir() if not _OWN.fullmatch(x.name)]
            if others:
                raise ScoringError(
                    f"{quoted(str(self.folder))}: holds {quoted(min(others))} and is no job's; "
                    "expected an empty folder, or that of a job"
                )

    def _look(self) -> None:
        """Reads what is there, and removes what a killed process left half."""
        _remove_own(self.folder, ".")
        facts = self.folder / _FACTS
        if facts.exists():
            self.began = Facts.read(read_file(facts), str(facts))
            self.finished = (self.folder / _DONE).exists()
        elif self._joins and self.out.exists():
            self.began = _facts_of(self.out)
            self.finished = True

    # The listing.

    def listing(self, source: Source, progress: Progress | None) -> Listing:
        """The images of the source. Raises ScoringError where they are others than those that the
        job began with."""
        file = self.folder / _LISTING
        new = self.folder / f".{_LISTING}"
        found = take_listing(source, new, progress.advance if progress else lambda _: None)
        if not found.count:
            raise ScoringError(f"{quoted(source.address)}: no images in it")
        if self.began is not None and found.sha256 != self.began.listing:
            told = ""
            if file.exists():
                told = difference(Listing(file, 0, ""), found)
            raise ScoringError(
                f"{quoted(source.address)}: is not as it was when {self.out} began"
                f"{': ' + told if told else ''}; give another --out, or remove it to begin anew"
            )
        new.replace(file)
        return Listing(file, found.count, found.sha256)

    @property
    def failed(self) -> int:
        """Rows with an error of a job that is finished."""
        files = [self.out] if self._joins else [part.file for part in _named(self.folder)]
        return failed_before(files)

    def begin(self, facts: Facts) -> None:
        """Keeps the facts of a new job. Raises ScoringError where an old one had others."""
        if self.began is not None:
            self.began.refuse(facts, str(self.out))
            return
        _write(self.folder / _FACTS, (facts.model_dump_json(indent=2) + "\n").encode())
        self.began = facts

    # The rows.

    def parts(self, schema: pa.Schema) -> list[Part]:
        """The parts that are whole, in order; others are removed."""
        found: list[Part] = []
        for part in _named(self.folder):
            if _is_whole(part, schema):
                found.append(part)
            else:
                part.file.unlink()
        for before, after in itertools.pairwise(found):
            if after.start < before.stop:
                raise ScoringError(f"{after.file}: has rows that {before.file.name} has too")
        return found

    def finish(self, schema: pa.Schema, count: int) -> None:
        """Makes the result of the parts. Raises ScoringError where rows are missing."""
        parts = self.parts(schema)
        if ranges := list(gaps(parts, count)):
            raise ScoringError(f"{self.folder}: rows {ranges[0][0]:,} and on are missing")
        if self._joins:
            _join([part.file for part in parts], schema, self.folder / ".joined", self.out)
        else:
            _write(self.folder / _DONE, b"")
        self.finished = True


class Rows:
    """Collects rows, and writes them into the folder of a job now and then.

    failed: rows with an error, those of former runs included.
    """

    def __init__(self, folder: Path, schema: pa.Schema, failed: int) -> None:
        self.failed = failed
        self._folder = folder
        self._schema = schema
        self._kept: dict[int, pa.Table] = {}
        self._count = 0
        self._since = time.monotonic()
        # A thread may still write when the job is stopped.
        self._lock = threading.RLock()

    def add(self, start: int, table: pa.Table) -> None:
        """Keeps the rows of a block, whose first image has the number `start`."""
        with self._lock:
            self._kept[start] = table
            self._count += len(table)
            self.failed += failed_in(table)
            if self._count >= _PART_ROWS or time.monotonic() - self._since >= _PART_SECONDS:
                self.write()

    def write(self) -> None:
        """Writes what is kept, a part for each run of neighbours."""
        with self._lock:
            self._write_all()

    def _write_all(self) -> None:
        run: list[pa.Table] = []
        first = end = 0
        for start, table in sorted(self._kept.items(), key=lambda pair: pair[0]):
            if run and start != end:
                self._write(first, end, run)
                run = []
            first, end = (start, start) if not run else (first, end)
            run.append(table)
            end += len(table)
        if run:
            self._write(first, end, run)
        self._kept.clear()
        self._count, self._since = 0, time.monotonic()

    def _write(self, start: int, stop: int, tables: list[pa.Table]) -> None:
        name = f"part-{start:012d}-{stop:012d}{SUFFIX}"
        partial = self._folder / f".{name}"
        with pq.ParquetWriter(partial, self._schema, compression="zstd") as writer:
            writer.write_table(pa.concat_tables(tables))
        _move(partial, self._folder / name)


def gaps(parts: list[Part], count: int) -> Iterator[tuple[int, int]]:
    """The ranges of `count` images that no part has."""
    at = 0
    for part in parts:
        if part.start > at:
            yield at, part.start
        at = part.stop
    if at < count:
        yield at, count


def failed_before(files: Iterable[Path]) -> int:
    """The rows with an error in some files."""
    return sum(failed_in(pq.read_table(file, columns=["error"])) for file in files)


def _named(folder: Path) -> list[Part]:
    """The parts in a folder by their names, in order."""
    named = ((_PART.fullmatch(file.name), file) for file in folder.iterdir())
    return sorted(Part(int(name[1]), int(name[2]), file) for name, file in named if name)


def with_facts(schema: pa.Schema, facts: Facts) -> pa.Schema:
    """The schema of a job's files, which say what they come from."""
    return schema.with_metadata({METADATA: facts.model_dump_json().encode()})


def _facts_of(file: Path) -> Facts:
    """The facts in a finished table. Raises ScoringError for a file of something else."""
    try:
        text = (pq.read_schema(file).metadata or {}).get(METADATA)
    except (pa.ArrowException, OSError):
        text = None
    if text is None:
        raise ScoringError(f"--out {quoted(str(file))}: is there already, and no job made it")
    return Facts.read(text, str(file))


def _is_whole(part: Part, schema: pa.Schema) -> bool:
    try:
        with pq.ParquetFile(part.file) as opened:
            rows = int(opened.metadata.num_rows)
            return rows == part.stop - part.start and opened.schema_arrow.equals(schema)
    except (pa.ArrowException, OSError):
        return False


def _join(parts: list[Path], schema: pa.Schema, partial: Path, out: Path) -> None:
    """Writes the rows of all parts into one file, which appears in one step."""
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        kept: list[pa.Table] = []
        for part in parts:
            kept.append(pq.read_table(part))
            if sum(map(len, kept)) >= _PART_ROWS:
                writer.write_table(pa.concat_tables(kept))
                kept = []
        if kept:
            writer.write_table(pa.concat_tables(kept))
    _move(partial, out)


def _remove_own(folder: Path, beginning: str) -> None:
    """Removes files of a job that have no rows; their names begin so."""
    for file in folder.iterdir():
        if file.name.startswith(beginning) and _OWN.fullmatch(file.name):
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def _write(file: Path, content: bytes) -> None:
    partial = file.with_name(f".{file.name}")
    partial.write_bytes(content)
    _move(partial, file)


def _move(partial: Path, place: Path) -> None:
    """Gives a file its name, once it is on the disk."""
    _sync(partial)
    partial.replace(place)
    _sync(place.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
