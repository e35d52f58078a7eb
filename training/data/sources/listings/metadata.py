"""Tables beside images, as Hugging Face's imagefolder has them: metadata.csv and the like."""

from pathlib import Path

from training.data.sources.listings.columns import LABEL_COLUMNS, Columns, MissingColumn
from training.data.sources.listings.parquet_rows import Contents, parquet_rows
from training.data.sources.listings.text_rows import csv_rows, json_rows
from training.data.sources.paths import place_below

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_COLUMN = "file_name"


def metadata_file(folder: Path) -> Path | None:
    """The table of a folder of images, if it has one."""
    files = (folder / name for name in METADATA_FILES)
    return next((file for file in files if file.is_file()), None)


def metadata_labels(
    folder: Path, label_column: str | None, *, needed: bool
) -> dict[str, list[Path]] | None:
    """The images that a folder's table names, by label; None where there is no table, or where it
    has no column of labels and none is asked for or `needed`: it describes images whose folders are
    their classes. Raises DataError."""
    file = metadata_file(folder)
    if file is None:
        return None
    labels = LABEL_COLUMNS if label_column is None else (label_column,)
    wanted = Columns((FILE_COLUMN,), labels)
    readers = {".csv": csv_rows, ".jsonl": json_rows}
    reader = readers.get(file.suffix)
    rows = parquet_rows(file, wanted, Contents()) if reader is None else reader(file, wanted)
    found: dict[str, list[Path]] = {}
    try:
        for row in rows:
            found.setdefault(row.label, []).append(place_below(folder, folder, row.path))
    except MissingColumn as error:
        if label_column is None and error.key == "label_column" and not needed:
            return None
        raise
    return found
