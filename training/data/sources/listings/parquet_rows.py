"""The rows of Parquet files, with paths of images or the images themselves."""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving.base.errors import quoted
from serving.base.machine.memory import free_memory
from training.data.sources.listings.columns import Columns, Found, Row, Spot, find_columns
from training.errors import DataError

# Rows that are decoded at a time.
_BATCH = 256
# Uncompressed bytes of a row group's columns, which are held at a time, at most.
_GROUP_BYTES = 2 << 30
# Bytes of one image.
_IMAGE_BYTES = 256 << 20
# Characters of a path or a label: a file of a few kilobytes may repeat one a million times.
_TEXT_LENGTH = 4096
# Bytes that a row takes in memory, with a path of usual length.
_ROW_BYTES = 400


class Contents:
    """Images that a table holds, written to a temporary file, since the rows of a Parquet file
    cannot be read one by one: a row group is decoded as a whole. The file has no name and goes
    with this object.

    Equal images of a row group are kept once. So no file takes more than its columns have
    uncompressed, however often a dictionary's entry is repeated.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        weakref.finalize(self, self._file.close)
        self._size = 0
        self._reserved = 0
        # By hash and length; a hash is keyed anew in each process, and kept with the bytes.
        self._known: dict[tuple[int, int], Spot] = {}

    def reserve(self, count: int, source: Path) -> None:
        """Raises DataError where the disk has no room for so many bytes, which `add` may take."""
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if count > free:
            raise DataError(
                f"{source}: its images take {count >> 20} MiB in {folder}, which has "
                f"{free >> 20} MiB left; TMPDIR names another folder"
            )
        self._reserved = self._size + count

    def next_group(self) -> None:
        """Images that are added from now on are not compared with former ones."""
        self._known.clear()

    def add(self, content: bytes) -> Spot:
        """Keeps an image. Raises DataError where the images take more than was reserved."""
        key = (hash(content), len(content))
        if key not in self._known:
            if self._size + len(content) > self._reserved:
                raise DataError("its images take more than the file declares")
            self._known[key] = Spot(self._size, len(content))
            self._file.write(content)
            self._size += len(content)
        return self._known[key]

    def flush(self) -> None:
        """Makes what was added readable."""
        self._file.flush()

    def read(self, spot: Spot) -> bytes:
        """An image; any thread may ask."""
        return os.pread(self._file.fileno(), spot.length, spot.offset)


def parquet_rows(file: Path, wanted: Columns, contents: Contents | None) -> Iterator[Row]:
    """The rows of a file, by row groups. The column of paths may hold texts, bytes, or Hugging
    Face's {bytes, path}; bytes go to `contents`, without which such rows are passed over. Raises
    DataError naming the row."""
    with _opened(file) as table:
        schema, metadata = table.schema_arrow, table.metadata
        found = find_columns(schema.names, wanted, file)
        leaves = _leaves(table, file, found)
    kind = schema.field(found.path).type
    if contents is None and _holds_contents(kind):
        return
    _check_size(metadata, leaves, file)
    if contents is not None and _holds_contents(kind):
        homes = (found.path, f"{found.path}.bytes", f"{found.path}.path")
        images = [index for index, leaf in leaves.items() if leaf in homes]
        contents.reserve(sum(sum(sizes) for sizes in _sizes(metadata, images)), file)
    number = 0
    # As dictionaries: decoded, each row of a batch would have a copy of its value.
    with _opened(file, read_dictionary=list(leaves.values())) as table:
        try:
            for group in range(metadata.num_row_groups):
                if contents is not None:
                    contents.next_group()
                for batch in table.iter_batches(_BATCH, [group], list(leaves.values())):
                    columns = {name: _Column(batch.column(name)) for name in batch.schema.names}
                    for index in range(batch.num_rows):
                        number += 1
                        values = {name: column.value(index) for name, column in columns.items()}
                        yield _row(values, found, number, file, contents)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: row {number + 1}: cannot be read: {_line(error)}") from error
    if contents is not None:
        contents.flush()


class _Column:
    """The values of a column of a batch, one by one: those of a dictionary are made once each."""

    def __init__(self, array: pa.Array) -> None:
        self._array = array
        self._known: dict[int, Any] = {}
        self._parts = {}
        if pa.types.is_struct(array.type):
            names = (field.name for field in array.type)
            self._parts = dict(zip(names, map(_Column, array.flatten()), strict=True))

    def value(self, index: int) -> Any:
        if self._parts:
            return {name: part.value(index) for name, part in self._parts.items()}
        if not pa.types.is_dictionary(self._array.type):
            return self._array[index].as_py()
        place = self._array.indices[index].as_py()
        if place is not None and place not in self._known:
            self._known[place] = self._array.dictionary[place].as_py()
        return self._known.get(place)


def label_names(file: Path, column: str) -> tuple[str, ...] | None:
    """The names of a column's labels in the schema's metadata, as Hugging Face's ClassLabel has
    them; None where there are none."""
    with _opened(file) as table:
        told = (table.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        feature = json.loads(told or b"{}")["info"]["features"][column]
        names = feature["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def label_column(file: Path, wanted: Columns) -> str:
    """The name of the column of labels."""
    with _opened(file) as table:
        return find_columns(table.schema_arrow.names, wanted, file).label


def _opened(file: Path, **options: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, **options)
    except OSError as error:
        raise DataError(f"data.file: {file}: cannot be read: {_line(error)}") from error
    except pa.ArrowException as error:
        raise DataError(f"{file}: not a Parquet file: {_line(error)}") from error


def _leaves(table: pq.ParquetFile, file: Path, found: Found) -> dict[int, str]:
    """The columns of values that are read, by number: of an image {bytes, path} these two. Raises
    DataError where one holds something else."""
    schema = table.schema_arrow
    wanted = []
    for column in filter(None, found):
        kind = schema.field(column).type
        if column == found.path:
            expected, fits = "texts, bytes or {bytes, path}", _holds_contents(kind)
        else:
            expected, fits = "texts or whole numbers", _holds_numbers(kind)
        if not fits and not _holds_text(kind):
            raise DataError(
                f"{file}: column {quoted(column)}: expected {expected}, got {quoted(str(kind))}"
            )
        is_struct = pa.types.is_struct(kind)
        wanted += [f"{column}.bytes", f"{column}.path"] if is_struct else [column]
    paths = (table.schema.column(index).path for index in range(len(table.schema)))
    return {index: path for index, path in enumerate(paths) if path in wanted}


def _sizes(metadata: pq.FileMetaData, leaves: Collection[int]) -> list[list[int]]:
    """Uncompressed bytes of columns of values in each row group, as the file declares them."""
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    return [[group.column(leaf).total_uncompressed_size for leaf in leaves] for group in groups]


def _check_size(metadata: pq.FileMetaData, leaves: Collection[int], file: Path) -> None:
    """Raises DataError where rows, or the values of a row group, take more memory than they may."""
    for index, sizes in enumerate(_sizes(metadata, leaves)):
        if min(sizes, default=0) < 0 or sum(sizes) > _GROUP_BYTES:
            raise DataError(
                f"{file}: row group {index} has {sum(sizes) >> 20} MiB, at most "
                f"{_GROUP_BYTES >> 20} are read at a time; write it with smaller row groups"
            )
    needed, free = metadata.num_rows * _ROW_BYTES, free_memory()
    if needed > free:
        raise DataError(
            f"{file}: {metadata.num_rows:,} rows take about {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; larger sets belong into shards"
        )


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_numbers(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_null(kind))


def _holds_contents(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in [field.name for field in kind]
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _row(
    values: dict[str, Any], found: Found, number: int, file: Path, contents: Contents | None
) -> Row:
    place = f"row {number}"
    label = values[found.label]
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise DataError(f"{file}: {place}: {found.label}: expected a label, got {quoted(label)}")
    told = None if found.split is None else values[found.split]
    split = None if told is None else str(told)
    image = values[found.path]
    path = image.get("path") if isinstance(image, dict) else image
    content = image.get("bytes") if isinstance(image, dict) else image
    for name, text in ((found.path, path), (found.label, label), (found.split, split)):
        if isinstance(text, str) and len(text) > _TEXT_LENGTH:
            raise DataError(
                f"{file}: {place}: {name}: a text of {len(text):,} characters, at most "
                f"{_TEXT_LENGTH:,} are read"
            )
    if contents is not None and isinstance(content, bytes):
        if len(content) > _IMAGE_BYTES:
            raise DataError(f"{file}: {place}: an image of {len(content) >> 20} MiB")
        name = path if isinstance(path, str) and path else ""
        name = f"{file.stem}/{number}" + (f"/{name}" if name else "")
        try:
            spot = contents.add(content)
        except DataError as error:
            raise DataError(f"{file}: {place}: {error}") from error
        return Row(place, name, str(label).strip(), split, spot)
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"{file}: {place}: {found.path}: expected an image, got {quoted(image)}")
    return Row(place, path, str(label).strip(), split)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
