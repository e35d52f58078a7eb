"""The findings of a study, ready to be shown."""

from dataclasses import dataclass
from typing import Any

from training.evaluation.report.tables import Rows
from training.pipeline.study.pictures import Picture


@dataclass(frozen=True)
class Outcome:
    """The findings of a study.

    rows: the table.
    note: explains its numbers.
    document: all findings, as JSON can hold them.
    best: the document of the best recipe, of a search only.
    """

    title: str
    rows: Rows
    note: str
    document: dict[str, Any]
    pictures: list[Picture]
    best: dict[str, Any] | None = None
