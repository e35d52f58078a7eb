"""The columns of a table that are wanted, and rows with their values."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from serving.base.errors import quoted
from serving.base.text import one_line
from training.errors import DataError

PATH_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "img")
LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "class_name", "label_name")


class MissingColumn(DataError):
    """A table without a wanted column.

    key: the key of the recipe that names it.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class Columns(NamedTuple):
    """Names of columns, of which the first that a table has is meant.

    path, label: wanted.
    split: as good as wanted where `split_wanted`.
    """

    path: Sequence[str]
    label: Sequence[str]
    split: str = "split"
    split_wanted: bool = False


class Spot(NamedTuple):
    """The content of an image in a Contents."""

    offset: int
    length: int


class Row(NamedTuple):
    """One image of a table.

    place: where the row stands, for messages: "line 7".
    path: as the table has it; with `spot`, a name for reports.
    spot: its content, where the table has it.
    label: a number where the column holds numbers.
    split: the value of the split column; None where there is none.
    """

    place: str
    path: str
    label: str
    split: str | None
    spot: Spot | None = None


class Found(NamedTuple):
    """The columns of a table by their own names."""

    path: str
    label: str
    split: str | None


def find_columns(heading: Iterable[str], wanted: Columns, file: Path) -> Found:
    """The wanted columns among those of a table; one that differs in case alone counts too, where
    there is no other. Raises DataError naming those that are there."""
    names = list(heading)

    def find(choices: Sequence[str], key: str, *, needed: bool = True) -> str | None:
        for choice in choices:
            alike = [name for name in names if name.strip().lower() == choice.strip().lower()]
            exact = [name for name in alike if name.strip() == choice.strip()]
            if len(found := exact or alike) == 1:
                return found[0]
        if not needed:
            return None
        shown = one_line(", ".join(name.strip() for name in names[:20]))
        if len(choices) == 1:
            message = f"{file}: no column {quoted(choices[0])}; its columns are {shown}"
            raise MissingColumn(message, key)
        usual = ", ".join(choices)
        message = f"{file}: no column {usual}; its columns are {shown}; data.{key} says which"
        raise MissingColumn(message, key)

    path = find(wanted.path, "path_column")
    label = find(wanted.label, "label_column")
    split = find((wanted.split,), "split_column", needed=wanted.split_wanted)
    return Found(path or "", label or "", split)
