"""Images named in a CSV file, with their labels."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.image_folder import LabelledFile, labelled_dataset
from training.data.split import SPLITS
from training.errors import DataError


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

    Where the file has `split_column`, it says train, val or test; splits that it does not name are
    cut from train, stratified by label. Classes are the labels: whole numbers in their order,
    others in ASCII order. Raises DataError naming the line, or the files that are broken.
    """
    rows = _rows(file, (path_column, label_column))
    labels = {row[label_column] for row in rows}
    numeric = all(label.isdecimal() for label in labels)
    classes = tuple(sorted(labels, key=(lambda label: (int(label), label)) if numeric else None))
    if len(classes) < 2:
        raise DataError(f"{file}: expected at least two labels, got {len(classes)}")
    number = {name: index for index, name in enumerate(classes)}
    given: dict[str, list[LabelledFile]] = {"train": []}
    for row in rows:
        item = (file.parent / row[path_column], number[row[label_column]])
        given.setdefault(row.get(split_column, "train"), []).append(item)
    strange = [name for name in given if name not in SPLITS]
    if strange:
        raise DataError(
            f"{file}: column {split_column!r}: expected {', '.join(SPLITS)}; got {strange[0]!r}"
        )
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
    )


def listed_files(file: Path, path_column: str) -> list[Path]:
    """The image files that a CSV file names. Raises DataError."""
    return [file.parent / row[path_column] for row in _rows(file, (path_column,))]


def _rows(file: Path, columns: Sequence[str]) -> list[Mapping[str, str]]:
    """Every row by column, `columns` being filled in each."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, restval="")
            for column in columns:
                if column not in (reader.fieldnames or ()):
                    raise DataError(
                        f"{file}: no column {column!r}; its columns are "
                        f"{', '.join(reader.fieldnames or ())}"
                    )
            rows: list[Mapping[str, str]] = []
            for row in reader:
                for column in columns:
                    if not row[column]:
                        raise DataError(f"{file}, line {reader.line_num}: no {column}")
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"data.file: {file}: cannot be read: {error}") from error
    return rows
