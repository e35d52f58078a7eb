"""The rows of Parquet files, with paths of images or the images themselves."""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving.base.errors import quoted
from training.data.sources.listings.columns import Columns, Row, Spot, find_columns
from training.errors import DataError

# Rows that are decoded at a time.
_BATCH = 256
# Uncompressed bytes of a row group's columns, which are held at a time, at most.
_GROUP_BYTES = 2 << 30
# Bytes of one image.
_IMAGE_BYTES = 256 << 20


class Contents:
    """Images that a table holds, written to a temporary file, since the rows of a Parquet file
    cannot be read one by one: a row group is decoded as a whole. The file has no name and goes
    with this object."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        weakref.finalize(self, self._file.close)
        self._size = 0

    def reserve(self, count: int, source: Path) -> None:
        """Raises DataError where the disk has no room for so many bytes."""
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if count > free:
            raise DataError(
                f"{source}: its images take {count >> 20} MiB in {folder}, which has "
                f"{free >> 20} MiB left; TMPDIR names another folder"
            )

    def add(self, content: bytes) -> Spot:
        """Keeps an image."""
        spot = Spot(self._size, len(content))
        self._file.write(content)
        self._size += len(content)
        return spot

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
        schema = table.schema_arrow
        found = find_columns(schema.names, wanted, file)
        columns = [name for name in found if name is not None]
        _check_groups(table, file)
        kind = schema.field(found.path).type
        if not _holds_paths(kind) and not _holds_contents(kind):
            raise DataError(
                f"{file}: column {quoted(found.path)}: expected texts, bytes or {{bytes, path}}, "
                f"got {quoted(str(kind))}"
            )
        if contents is None and _holds_contents(kind):
            return
        if contents is not None and _holds_contents(kind):
            contents.reserve(_bytes_of(table, found.path), file)
        number = 0
        try:
            for batch in table.iter_batches(batch_size=_BATCH, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield _row(values, found, number, file, contents)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: row {number + 1}: cannot be read: {_line(error)}") from error
        if contents is not None:
            contents.flush()


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


def _opened(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except OSError as error:
        raise DataError(f"data.file: {file}: cannot be read: {_line(error)}") from error
    except pa.ArrowException as error:
        raise DataError(f"{file}: not a Parquet file: {_line(error)}") from error


def _check_groups(table: pq.ParquetFile, file: Path) -> None:
    for index in range(table.metadata.num_row_groups):
        size = table.metadata.row_group(index).total_byte_size
        if size > _GROUP_BYTES:
            raise DataError(
                f"{file}: row group {index} has {size >> 20} MiB, at most {_GROUP_BYTES >> 20} are "
                "read at a time; write it with smaller row groups"
            )


def _bytes_of(table: pq.ParquetFile, column: str) -> int:
    """Uncompressed bytes of a column."""
    groups = (table.metadata.row_group(i) for i in range(table.metadata.num_row_groups))
    return sum(
        group.column(place).total_uncompressed_size
        for group in groups
        for place in range(group.num_columns)
        if group.column(place).path_in_schema.split(".")[0] == column
    )


def _holds_paths(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_contents(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in [field.name for field in kind]
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _row(
    values: dict[str, Any], found: Any, number: int, file: Path, contents: Contents | None
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
    if contents is not None and isinstance(content, bytes):
        if len(content) > _IMAGE_BYTES:
            raise DataError(f"{file}: {place}: an image of {len(content) >> 20} MiB")
        name = path if isinstance(path, str) and path else ""
        name = f"{file.stem}/{number}" + (f"/{name}" if name else "")
        return Row(place, name, str(label).strip(), split, contents.add(content))
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"{file}: {place}: {found.path}: expected an image, got {quoted(image)}")
    return Row(place, path, str(label).strip(), split)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
