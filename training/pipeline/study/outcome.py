"""What a study found out, ready to be shown."""

from dataclasses import dataclass
from typing import Any

from training.evaluation.report.figures import Picture
from training.evaluation.report.tables import Rows


@dataclass(frozen=True)
class Outcome:
    """`rows` are the table, `note` says what its numbers are, `document` holds all of it as JSON
    can; `best` is a recipe's document, of a search only."""

    title: str
    rows: Rows
    note: str
    document: dict[str, Any]
    pictures: list[Picture]
    best: dict[str, Any] | None = None
