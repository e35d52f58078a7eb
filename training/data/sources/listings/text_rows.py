"""The rows of CSV, TSV and JSON lines."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.base.errors import quoted
from serving.base.files import read_file
from serving.base.text import NotText, decode_utf8
from training.data.sources.listings.columns import Columns, Found, Row, find_columns
from training.errors import DataError

# Bytes of a table in text. 256 MiB hold some four million rows; more belong into Parquet or shards.
_FILE_BYTES = 256 << 20
# Characters of a line of JSON: parsed, one takes up to thirty times as many bytes.
_LINE_LENGTH = 4 << 20


def csv_rows(file: Path, wanted: Columns, delimiter: str | None = None) -> Iterator[Row]:
    """The rows of a table with a heading, without white space around names and values. Rows without
    any value do not count. Raises DataError naming the line.

    delimiter: None: a comma, or a semicolon where the heading has no comma but one of them, as
        spreadsheets write it where a comma is in every number.
    """
    text = _text(file)
    if delimiter is None:
        heading_line = text.partition("\n")[0]
        delimiter = ";" if ";" in heading_line and "," not in heading_line else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        heading = [name.strip() for name in next(reader, [])]
        found = find_columns(heading, wanted, file)
        path, label = heading.index(found.path), heading.index(found.label)
        split = None if found.split is None else heading.index(found.split)
        for line in reader:
            values = [value.strip() for value in line]
            if not any(values):
                continue
            if any(values[len(heading) :]):
                raise DataError(
                    f"{file}: line {reader.line_num}: {len(values)} values in {len(heading)} "
                    "columns; a value with a comma needs quotation marks"
                )
            values += [""] * (len(heading) - len(values))
            for place, wants in ((path, wanted.path), (label, wanted.label)):
                if not values[place]:
                    name = wants[0] if len(wants) == 1 else heading[place]
                    raise DataError(f"{file}: line {reader.line_num}: no {name}")
            if wanted.split_wanted and split is not None and not values[split]:
                raise DataError(f"{file}: line {reader.line_num}: no {wanted.split}")
            told = None if split is None else values[split]
            yield Row(f"line {reader.line_num}", values[path], values[label], told)
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num}: cannot be read: {error}") from error


def json_rows(file: Path, wanted: Columns) -> Iterator[Row]:
    """The rows of a file with an object in each line. Raises DataError naming the line."""
    found: Found | None = None
    for number, line in enumerate(io.StringIO(_text(file)), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        if len(line) > _LINE_LENGTH:
            raise DataError(
                f"{file}: {place}: {len(line) >> 20} MiB, at most {_LINE_LENGTH >> 20} are read"
            )
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: {place}: not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"{file}: {place}: expected an object, got {quoted(values)}")
        found = found or find_columns(values, wanted, file)
        told = None if found.split is None else values.get(found.split)
        yield Row(
            place,
            _told(values, found.path, f"{file}: {place}"),
            _told(values, found.label, f"{file}: {place}"),
            None if told is None else str(told),
        )


def _told(values: dict[str, Any], key: str, place: str) -> str:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{place}: {key}: expected a text or whole number, got {quoted(value)}")
    return str(value).strip()


def _text(file: Path) -> str:
    try:
        return decode_utf8(file, read_file(file, _FILE_BYTES))
    except NotText as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"data.file: {file}: cannot be read: {error.strerror or error}") from error
