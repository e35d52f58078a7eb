"""Images named, or held, by tables, with their labels."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from serving.base.errors import quoted
from serving.base.folders import split_named, visible_files
from serving.images.masks.folders import read_classes
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.image_folder import image_bytes, labelled_dataset, shown_name
from training.data.sources.listings.columns import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Columns,
    Row,
    Spot,
)
from training.data.sources.listings.parquet_rows import (
    Contents,
    label_column,
    label_names,
    parquet_rows,
)
from training.data.sources.listings.text_rows import csv_rows, json_rows
from training.data.sources.paths import place_below
from training.data.split import SPLITS
from training.errors import DataError, data_errors
from training.recipes.data import SPLIT_COLUMN, TableData

_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

# Digits of a label that is a number.
_DIGITS = 18


class _Listed(NamedTuple):
    """An image: its file, or its content in the table."""

    path: Path
    spot: Spot | None
    label: int


@data_errors()
def table_dataset(data: TableData, transform: EvalTransform) -> Dataset:
    """Rows of path and label in CSV, TSV, JSON lines or Parquet; see TableData.

    Where the table has the split column, it says train, val or test (or what split_named takes for
    them); of several tables, their names do. Splits that are not there are cut from train,
    stratified by label. Classes are the labels: whole numbers in their order, others in ASCII
    order; numbers that stand for names are these.
    Raises DataError naming the file and the row, or the images that are broken.
    """
    files = table_files(data)
    named = _named_splits(files)
    top = data.root or files[0].parent
    contents = Contents()
    rows: dict[str, list[tuple[Path, Spot | None, str]]] = {"train": []}
    for file in files:
        root = data.root or file.parent
        for row in _rows(file, _wanted(data), contents):
            split = named[file] if row.split is None else split_named(row.split)
            if split is None:
                raise DataError(
                    f"{file}: {row.place}: column {data.split_column!r}: expected "
                    f"{', '.join(SPLITS)}; got {row.split!r}"
                )
            if row.spot is None:
                try:
                    path = place_below(root, root, row.path)
                except DataError as error:
                    raise DataError(
                        f"{file}: {row.place}: {error}; data.root is the folder of all paths"
                    ) from error
            else:
                path = Path(row.path)
            rows.setdefault(split, []).append((path, row.spot, row.label))
    found = {label for listed in rows.values() for _, _, label in listed}
    classes, numbers = _classes(data, files[0], found)

    def content_of(item: _Listed) -> bytes:
        return image_bytes(item.path) if item.spot is None else contents.read(item.spot)

    return labelled_dataset(
        top,
        {
            split: [_Listed(path, spot, numbers[label]) for path, spot, label in listed]
            for split, listed in rows.items()
        },
        classes,
        f"{'table' if len(files) == 1 else 'tables'} {', '.join(file.name for file in files[:3])}"
        + (", ..." if len(files) > 3 else ""),
        data,
        transform,
        label_of=lambda item: item.label,
        name_of=lambda item: shown_name(item.path, top),
        content_of=content_of,
        left_out={},
    )


def table_files(data: TableData) -> list[Path]:
    """The tables that a recipe names. Raises DataError where a folder holds none."""
    told = (data.file,) if isinstance(data.file, Path) else data.file
    files: list[Path] = []
    for place in told:
        if not place.is_dir():
            files.append(place)
            continue
        held = [file for file in visible_files(place) if file.suffix.lower() in _ENDINGS]
        if not held:
            raise DataError(f"data.file: {place}: no table; expected {', '.join(_ENDINGS)}")
        files += held
    return files


def listed_images(data: TableData) -> Iterator[Path]:
    """The image files that the tables name; none for images that they hold. Raises DataError."""
    for file in table_files(data):
        root = data.root or file.parent
        for row in _rows(file, _wanted(data), None):
            if row.spot is None:
                yield root / row.path


def _wanted(data: TableData) -> Columns:
    return Columns(
        PATH_COLUMNS if data.path_column is None else (data.path_column,),
        LABEL_COLUMNS if data.label_column is None else (data.label_column,),
        data.split_column,
        data.split_column != SPLIT_COLUMN,
    )


def _rows(file: Path, wanted: Columns, contents: Contents | None) -> Iterator[Row]:
    match file.suffix.lower():
        case ".parquet":
            return parquet_rows(file, wanted, contents)
        case ".jsonl" | ".ndjson":
            return json_rows(file, wanted)
        case ".tsv":
            return csv_rows(file, wanted, "\t")
        case _:
            return csv_rows(file, wanted)


def _named_splits(files: Sequence[Path]) -> dict[Path, str]:
    """The split of each table by the first word of its name; train where no name is a split's."""
    if len(files) == 1:
        return {files[0]: "train"}
    named = {
        file: split_named(re.split(r"[^a-z]+", file.stem.lower(), maxsplit=1)[0]) for file in files
    }
    if not any(named.values()):
        return dict.fromkeys(files, "train")
    for file, split in named.items():
        if split is None:
            raise DataError(
                f"{file}: its name begins with no split, as those of other tables do; expected "
                f"{', '.join(SPLITS)}"
            )
    return {file: split or "" for file, split in named.items()}


def _classes(
    data: TableData, first: Path, labels: set[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, and the number of each label."""
    numeric = all(
        label.isascii() and label.isdecimal() and len(label) <= _DIGITS for label in labels
    )
    names = _names(data, first)
    # Names that a person gives may be numbers themselves: years, house numbers.
    if names is not None and data.classes is not None and (not numeric or labels <= set(names)):
        if strange := sorted(labels - set(names)):
            raise DataError(f"{first}: label {quoted(strange[0])} is none of data.classes")
        numbers = {name: index for index, name in enumerate(names)}
    elif names is not None and numeric:
        numbers = {label: int(label) for label in labels}
        if strange := [label for label, number in numbers.items() if number >= len(names)]:
            raise DataError(
                f"{first}: label {strange[0]}, but {len(names)} classes have names, from 0"
            )
    else:
        names = tuple(sorted(labels, key=(lambda x: (int(x), x)) if numeric else None))
        numbers = {name: index for index, name in enumerate(names)}
    if len(names) < 2:
        raise DataError(f"{first}: expected at least two labels, got {len(names)}")
    return tuple(names), numbers


def _names(data: TableData, first: Path) -> tuple[str, ...] | None:
    if isinstance(data.classes, Path):
        return tuple(read_classes(data.classes))
    if data.classes is not None:
        return data.classes
    if first.suffix.lower() == ".parquet":
        return label_names(first, label_column(first, _wanted(data)))
    return None
