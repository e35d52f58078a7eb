"""Images named in a CSV file, with their labels."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.base.folders import split_named
from serving.base.text import NotText, read_utf8
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.image_folder import LabelledFile, labelled_dataset
from training.data.split import SPLITS
from training.errors import DataError
from training.recipes.data import SPLIT_COLUMN


def csv_listing(
    file: Path,
    eval_transform: EvalTransform,
    *,
    path_column: str,
    label_column: str,
    split_column: str,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    test: str,
) -> Dataset:
    """Rows of path and label under a heading, paths being relative to the file's folder.

    Where the file has `split_column`, it says train, val or test (or what split_named takes for
    them); splits that it does not name are cut from train, stratified by label. Only a column of
    the usual name may be missing. Classes are the
    labels: whole numbers in their order, others in ASCII order.
    Raises DataError naming the line, or the files that are broken.
    """
    named = () if split_column == SPLIT_COLUMN else (split_column,)
    rows = _rows(file, (path_column, label_column, *named), (SPLIT_COLUMN,))
    labels = {row[label_column] for row in rows}
    numeric = all(label.isdecimal() for label in labels)
    classes = tuple(sorted(labels, key=(lambda label: (int(label), label)) if numeric else None))
    if len(classes) < 2:
        raise DataError(f"{file}: expected at least two labels, got {len(classes)}")
    number = {name: index for index, name in enumerate(classes)}
    given: dict[str, list[LabelledFile]] = {"train": []}
    for row in rows:
        split = split_named(row.get(split_column, "train"))
        if split is None:
            raise DataError(
                f"{file}: column {split_column!r}: expected {', '.join(SPLITS)}; "
                f"got {row[split_column]!r}"
            )
        item = (file.parent / row[path_column], number[row[label_column]])
        given.setdefault(split, []).append(item)
    return labelled_dataset(
        file.parent,
        given,
        classes,
        f"CSV file {file.name}",
        eval_transform,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        test=test,
        left_out={},
    )


def listed_files(file: Path, path_column: str) -> list[Path]:
    """The image files that a CSV file names. Raises DataError."""
    return [file.parent / row[path_column] for row in _rows(file, (path_column,))]


def _rows(
    file: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> list[Mapping[str, str]]:
    """Every row by column, without white space around names and values; those of `required` are
    filled in each. Rows without any value do not count."""
    columns = (*required, *optional)
    try:
        text = read_utf8(file)
    except NotText as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"data.file: {file}: cannot be read: {error.strerror or error}") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[Mapping[str, str]] = []
    try:
        heading = _heading(next(reader, []), columns)
        for column in required:
            if column not in heading:
                raise DataError(
                    f"{file}: no column {column!r}; its columns are {', '.join(heading)}"
                )
        for line in reader:
            values = [value.strip() for value in line]
            if not any(values):
                continue
            if any(values[len(heading) :]):
                raise DataError(
                    f"{file}: line {reader.line_num}: {len(values)} values in {len(heading)} "
                    "columns; a value with a comma needs quotation marks"
                )
            row = dict.fromkeys(heading, "") | dict(zip(heading, values, strict=False))
            for column in required:
                if not row[column]:
                    raise DataError(f"{file}: line {reader.line_num}: no {column}")
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num}: cannot be read: {error}") from error
    return rows


def _heading(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The names of a file's columns; one that differs from a wanted column in case alone is that
    column, where the file has no other for it."""
    heading = [name.strip() for name in names]
    for column in columns:
        alike = [name for name in heading if name.lower() == column.lower()]
        if len(alike) == 1:
            heading[heading.index(alike[0])] = column
    return heading
