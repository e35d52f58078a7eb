"""`convserve.Report`: the outcome of a build, out of its run folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from serving.base.evaluation import Estimate
from serving.base.text import one_line
from training.evaluation.report.measured import Measured
from training.evaluation.report.report_file import PAGE_FILE, read_report
from training.recipes.tasks import MEASURE_TITLES

# Variants of the table in a notebook, and characters of a text in it. More would fill the page with
# what report.html shows better.
_ROWS = 40
_LENGTH = 80
_CELL = 'style="padding:.2em .8em .2em 0;text-align:{}"'


@dataclass(frozen=True)
class Variant:
    """A variant in an engine, measured on the test split.

    id: its name in the manifest ("int8-u8").
    engine: runs it.
    precision: that it runs in.
    accuracy: by the measure of the task, with its 95 % interval.
    drop: accuracy lost against the FP32 network, with its interval; negative where it gained.
    agreement: share of answers that equal those of the FP32 network.
    size_bytes: of its file; None where nobody measured it.
    milliseconds: latency by batch size.
    passed: whether the gate lets it be served.
    reason: of the gate.
    """

    id: str
    engine: str
    precision: str
    accuracy: Estimate
    drop: Estimate
    agreement: float
    size_bytes: int | None
    milliseconds: Mapping[int, float]
    passed: bool
    reason: str


class Report:
    """What a build came to: `Report("runs/flowers")`, or the result of `build`.

    A notebook shows it as a table. Raises BuildError for a folder that is no run.
    """

    def __init__(self, run: str | PathLike[str], /) -> None:
        self._folder = Path(run)
        self._found = read_report(self._folder)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._folder

    @property
    def page(self) -> Path:
        """The report as an HTML page, with curves, mistakes and data."""
        return self._folder / PAGE_FILE

    @property
    def name(self) -> str:
        """Of the model."""
        return self._found.name

    @property
    def task(self) -> str:
        """classification, segmentation or embedding."""
        return self._found.task

    @property
    def measure(self) -> str:
        """The measure of its accuracy: top1, miou, iou, rank1 or agreement."""
        return self._found.measure

    @property
    def state(self) -> str:
        """How far the build came: "published", "refused by the gate", ..."""
        return str(self._found.state)

    @property
    def version(self) -> int | None:
        """The version that this run stands for; None where it published none."""
        return None if self._found.published is None else self._found.published.version

    @property
    def model_repository(self) -> Path | None:
        """The folder with that version, for `Server`; None where it published none."""
        published = self._found.published
        return None if published is None else Path(published.repository)

    @property
    def baseline(self) -> Estimate | None:
        """Accuracy of the trained network in FP32, before pruning; None before verify."""
        return None if self._found.verified is None else self._found.verified.baseline

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Every variant in every engine; empty before verify."""
        verified = self._found.verified
        return () if verified is None else tuple(map(_variant, verified.entries))

    @property
    def best(self) -> Variant | None:
        """The fastest variant that passed its gate; None where none did."""
        found = None if self._found.verified is None else self._found.verified.best
        return _variant(found) if found is not None and found.evidence.gate.passed else None

    @property
    def seconds(self) -> dict[str, float]:
        """What each stage took."""
        return {stage.name: stage.seconds for stage in self._found.stages}

    def document(self) -> dict[str, Any]:
        """The whole of report.json."""
        return self._found.model_dump(mode="json")

    def __repr__(self) -> str:
        return f"<convserve.Report {self._title()}>"

    def _title(self) -> str:
        version = "" if self.version is None else f" as version {self.version}"
        best = self.best
        title = f"{self.name}: {self.state}{version}"
        if best is None:
            return title
        fastest = min(best.milliseconds.items(), default=None)
        latency = f", {fastest[1]:.2f} ms at batch size {fastest[0]}" if fastest else ""
        words = f"{MEASURE_TITLES[self.measure]} {_percent(best.accuracy)} %{latency}"
        return f"{title}; {best.id} in {best.engine}: {words}"

    def _repr_html_(self) -> str:
        """A table for a notebook: no script and nothing from outside, some 30 KB at most."""
        shown = self.variants[:_ROWS]
        sizes = sorted({size for one in shown for size in one.milliseconds})[:4]
        head = ["variant", "engine", f"{MEASURE_TITLES[self.measure]} %", "drop, points"]
        head += ["agreement %", "KiB", *(f"b{size} ms" for size in sizes), "gate"]
        rows = [_row(one, sizes, best=one == self.best) for one in shown]
        more = len(self.variants) - len(shown)
        parts = [f"<p><b>{_text(self._title(), 2 * _LENGTH)}</b></p>"]
        if rows:
            cells = "".join(f"<th {_CELL.format('left')}>{_text(word)}</th>" for word in head)
            parts.append(f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody>")
            parts.append("</table>")
        if more > 0:
            parts.append(f"<p>and {more} more</p>")
        parts.append(f"<p>All of it: <code>{_text(str(self.page), 4 * _LENGTH)}</code></p>")
        return f"<div>{''.join(parts)}</div>"


def _variant(measured: Measured) -> Variant:
    evidence = measured.evidence
    return Variant(
        id=measured.variant,
        engine=measured.engine,
        precision=measured.precision,
        accuracy=evidence.accuracy,
        drop=evidence.drop,
        agreement=evidence.agreement,
        size_bytes=measured.size_bytes,
        milliseconds=dict(evidence.latency.milliseconds),
        passed=evidence.gate.passed,
        reason=evidence.gate.reason,
    )


def _row(variant: Variant, sizes: list[int], *, best: bool) -> str:
    times = [variant.milliseconds.get(size) for size in sizes]
    size = variant.size_bytes
    numbers = [
        _percent(variant.accuracy),
        _percent(variant.drop),
        f"{100 * variant.agreement:.2f}",
        "" if size is None else f"{size / 1024:,.0f}",
        *("" if ms is None else f"{ms:.2f}" for ms in times),
    ]
    gate = "passed" if variant.passed else f"failed: {variant.reason}"
    cells = [
        *(
            f"<td {_CELL.format('left')}>{_text(word)}</td>"
            for word in (variant.id, variant.engine)
        ),
        *(f"<td {_CELL.format('right')}>{_text(number)}</td>" for number in numbers),
        f"<td {_CELL.format('left')}>{_text(gate)}</td>",
    ]
    weight = ' style="font-weight:bold"' if best else ""
    return f"<tr{weight}>{''.join(cells)}</tr>"


def _percent(estimate: Estimate) -> str:
    value, low, high = (100 * number for number in (estimate.value, estimate.low, estimate.high))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _text(text: str, length: int = _LENGTH) -> str:
    """Names are those of a run folder, which others may have made."""
    return escape(one_line(text, length))
