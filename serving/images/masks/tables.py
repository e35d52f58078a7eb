"""Tables of names and colours: those of public data sets, and files that people write.

A row has a name and a colour, and may have the value that stands for it in grey and palette masks,
and a mark that it is ignored. Rows of one name are one class.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from serving.base.errors import InvalidInput, quoted
from serving.base.files import read_file
from serving.base.text import NotText, decode_utf8
from serving.base.yaml_text import BAD_YAML, load_yaml

# Tables that data sets bring along: Kaggle's CamVid, CamVid itself, CVAT.
USUAL_FILES = ("class_dict.csv", "label_colors.txt", "labelmap.txt")

_HERE = Path(__file__).parent
SHIPPED = tuple(sorted(file.stem for file in _HERE.glob("*.yaml")))

_TABLE_BYTES = 1 << 20
_MOST_ROWS = 4096
_NAMES = ("name", "class", "label", "category")
_COLOURS = ("colour", "color", "rgb", "hex")
_CHANNELS = (("r", "red"), ("g", "green"), ("b", "blue"))
_VALUES = ("value", "id", "index")
_IGNORED = ("ignored", "ignore")
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no", "none")
_HEX = re.compile(r"#?([0-9a-fA-F]{6})")

Colour = tuple[int, int, int]


class Row(NamedTuple):
    """One colour of a table; None for a row that only states a value."""

    name: str
    colour: Colour | None
    value: int | None
    ignored: bool


class Table(NamedTuple):
    """A table, and the file or name by which messages call it."""

    source: str
    rows: tuple[Row, ...]

    @property
    def states_values(self) -> bool:
        """Whether any row says which value stands for it."""
        return any(row.value is not None for row in self.rows)


def read_table(name: str, folder: Path) -> Table:
    """A table of SHIPPED, or that of a file: relative to `folder`, or else to the working folder.

    .csv has a heading: name, r, g, b, or name and colour; value and ignored as you like. .json and
    .yaml hold {name: colour} or a list of {name, colour, value, ignored}. .txt has lines
    "R G B name" or "name:R,G,B". A colour is three numbers from 0 to 255, or #rrggbb.
    Raises InvalidInput naming the file and the place of the fault.
    """
    if name in SHIPPED:
        return _read(_HERE / f"{name}.yaml", name)
    file = folder / name if (folder / name).is_file() else Path(name)
    if not file.suffix and not file.exists():
        raise InvalidInput(
            f"colours: {quoted(name)} is neither a file nor one of {', '.join(SHIPPED)}"
        )
    return _read(file, str(file))


def _read(file: Path, source: str) -> Table:
    try:
        text = decode_utf8(file, read_file(file, _TABLE_BYTES))
    except NotText as error:
        raise InvalidInput(str(error)) from error
    except OSError as error:
        raise InvalidInput(f"{file}: cannot be read: {error.strerror or error}") from error
    readers = {".csv": _csv, ".json": _json, ".yaml": _yaml, ".yml": _yaml, ".txt": _txt}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{file}: expected a table in {', '.join(readers)}")
    rows: list[Row] = []
    try:
        for place, fields in reader(text):
            rows.append(_row(fields, place))
            if len(rows) > _MOST_ROWS:
                raise _Fault(f"{place}: more than {_MOST_ROWS} rows")
        _check(rows)
    except _Fault as fault:
        raise InvalidInput(f"{source}: {fault}") from fault
    return Table(source, tuple(rows))


class _Fault(Exception):
    """A place in a table, and what is wrong there."""


def _csv(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        heading = [name.strip().lower() for name in next(reader, [])]
        for values in reader:
            if any(value.strip() for value in values):
                yield f"line {reader.line_num}", dict(zip(heading, values, strict=False))
    except csv.Error as error:
        raise _Fault(f"line {reader.line_num}: cannot be read: {error}") from error


def _json(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Fault(f"not valid JSON: {error}") from error
    return _entries(document)


def _yaml(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        document = load_yaml(text)
    except BAD_YAML as error:
        raise _Fault(f"not valid YAML: {' '.join(str(error).split())}") from error
    return _entries(document)


def _entries(document: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(document, dict):
        for name, colour in document.items():
            yield quoted(name), {"name": name, "colour": colour}
    elif isinstance(document, list):
        for number, entry in enumerate(document, start=1):
            if not isinstance(entry, dict):
                raise _Fault(f"entry {number}: expected name and colour, got {quoted(entry)}")
            yield f"entry {number}", {str(key).lower(): value for key, value in entry.items()}
    else:
        raise _Fault("expected names and colours")


def _txt(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """CamVid's "R G B<tab>name" and CVAT's "name:R,G,B:parts:actions"."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if ":" in line:
            name, colour, *_ = line.split(":")
            yield f"line {number}", {"name": name, "colour": colour}
            continue
        words = line.split(maxsplit=3)
        if len(words) < 4:
            raise _Fault(f'line {number}: expected "R G B name", got {quoted(line.strip())}')
        yield f"line {number}", {"name": words[3], "colour": words[:3]}


def _row(fields: Mapping[str, Any], place: str) -> Row:
    name = str(_first(fields, _NAMES, "")).strip()
    if not name:
        raise _Fault(f"{place}: no name; expected a column or key {' or '.join(_NAMES)}")
    told: Any = _first(fields, _COLOURS, None)
    if told is None and any(key in fields for keys in _CHANNELS for key in keys):
        told = [_first(fields, keys, "") for keys in _CHANNELS]
    value = _first(fields, _VALUES, None)
    if value is not None and str(value).strip():
        value = _number(value, 0xFFFF, f"{place}: value of {quoted(name)}")
    else:
        value = None
    mark = str(_first(fields, _IGNORED, "")).strip().lower()
    if mark not in (*_TRUE, *_FALSE):
        raise _Fault(f"{place}: ignored: expected true or false, got {quoted(mark)}")
    if told is None and value is None:
        raise _Fault(f"{place}: {quoted(name)} has no colour")
    colour = None if told is None else _colour(told, f"{place}: colour of {quoted(name)}")
    return Row(name, colour, value, mark in _TRUE)


def _first(fields: Mapping[str, Any], keys: Sequence[str], default: object) -> Any:
    return next((fields[key] for key in keys if fields.get(key) is not None), default)


def _colour(told: object, place: str) -> Colour:
    if isinstance(told, str):
        if match := _HEX.fullmatch(told.strip()):
            red, green, blue = bytes.fromhex(match[1])
            return red, green, blue
        told = re.split(r"[,;\s]+", told.strip(" ()[]\t"))
    if not isinstance(told, list | tuple) or len(told) != 3:
        raise _Fault(f"{place}: expected three numbers or #rrggbb, got {quoted(told)}")
    red, green, blue = (_number(channel, 255, place) for channel in told)
    return red, green, blue


def _number(told: object, most: int, place: str) -> int:
    text = str(told).strip()
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if isinstance(told, bool) or not 0 <= number <= most:
        raise _Fault(f"{place}: expected a whole number from 0 to {most}, got {quoted(told)}")
    return number


def _check(rows: Sequence[Row]) -> None:
    """Refuses a colour or value that stands for two classes."""
    if not rows:
        raise _Fault("names no class")
    for what in ("colour", "value"):
        seen: dict[Any, Row] = {}
        for row in rows:
            key = getattr(row, what)
            first = seen.setdefault(key, row)
            if key is not None and first.name != row.name and not (first.ignored and row.ignored):
                raise _Fault(
                    f"{what} {quoted(key)} stands for {quoted(first.name)} and for "
                    f"{quoted(row.name)}"
                )
