"""The findings of a study, ready to be shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.evaluation.report.svg import Plot
from training.evaluation.report.tables import Rows


@dataclass(frozen=True)
class Outcome:
    """The findings of a study.

    title: what was done.
    answer: what was found, in a sentence; `detail` has its values.
    rows: the table.
    note: explains its numbers.
    document: all findings, as JSON can hold them.
    scores: of each row of an ablation or cross-validation, in [0, 1]; empty of a search.
    importances: the share of the scores' variance that each value of a search explains.
    best: the document of the best recipe, of a search only.
    """

    title: str
    answer: str
    rows: Rows
    note: str
    document: dict[str, Any]
    detail: str = ""
    plots: Sequence[Plot] = ()
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    importances: Mapping[str, float] = field(default_factory=dict)
    best: dict[str, Any] | None = None
