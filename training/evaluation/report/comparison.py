"""Several runs side by side, as far as they can be compared."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.base.errors import quoted
from serving.base.evaluation import Estimate
from training.evaluation.report.axes import linear, logarithmic
from training.evaluation.report.document import Report
from training.evaluation.report.measured import ClassRow, as_name
from training.evaluation.report.page import render
from training.evaluation.report.summary import (
    MOST_SIZES,
    interval,
    is_pruned,
    kibibytes,
    milliseconds,
    times,
)
from training.evaluation.report.svg import Dot, Line, Plot
from training.recipes.tasks import MEASURE_TITLES, TRAINED_TASKS

MOST_RUNS = 8
"""Runs of a page: as many as there are colours."""

# Classes, and settings, of a page: those that differ most, and the first.
_CLASSES, _SETTINGS = 20, 60
# Levels of a recipe's keys; deeper ones are shown as one value.
_DEPTH = 8

Runs = Sequence[tuple[str, Report]]


@dataclass(frozen=True)
class Cell:
    """A value of the table, and a line under it; `best` where it is the best of its row."""

    value: str
    under: str = ""
    best: bool = False


def comparison_page(runs: Runs) -> str:
    """The page as HTML; every number is one of the runs' report.json."""
    reasons = different_data(runs)
    machines = different_machines(runs)
    return render(
        "comparison.html.j2",
        runs=runs,
        reasons=reasons,
        machines=machines,
        answer=[] if reasons else _answer(runs, machines),
        unmeasured=[
            f"{name} has no accuracy: {report.state}."
            for name, report in runs
            if report.verified is None or report.verified.best is None
        ],
        rows=_rows(runs, judged=not reasons, timed=not machines and not reasons),
        plot=None if reasons or machines else _tradeoff(runs),
        curves=None if reasons else _curves(runs),
        classes=[] if reasons else _classes(runs),
        settings=_settings(runs),
        measure=MEASURE_TITLES[runs[0][1].measure],
        class_measure=TRAINED_TASKS[runs[0][1].task].class_measure,
    )


def different_data(runs: Runs) -> list[str]:
    """Why the accuracies of some runs cannot be compared, a sentence each; empty where they can."""
    name, first = runs[0]
    reasons = []
    for other, report in runs[1:]:
        if report.task != first.task:
            reasons.append(f"{name} is for {first.task}, {other} for {report.task}.")
        elif report.measure != first.measure:
            reasons.append(
                f"{name} is measured by {MEASURE_TITLES[first.measure]}, {other} by "
                f"{MEASURE_TITLES[report.measure]}."
            )
        elif "" in (report.data.sha256, first.data.sha256):
            unknown = other if not report.data.sha256 else name
            reasons.append(f"{unknown} did not record its data: an older version built it.")
        elif report.data.sha256 != first.data.sha256:
            if report.data.description == first.data.description:
                reasons.append(
                    f"{name} and {other} have data of one description, but their files, splits or "
                    "settings of the data differ."
                )
            else:
                reasons.append(
                    f"{name} has {first.data.description}; {other} has {report.data.description}."
                )
    return reasons


def different_machines(runs: Runs) -> list[str]:
    """The machines on which latencies were measured, where they are more than one."""
    machines = [report.verified.machine for _, report in runs if report.verified is not None]
    distinct = list(dict.fromkeys(machines))
    return distinct if len(distinct) > 1 else []


def _answer(runs: Runs, machines: Sequence[str]) -> list[str]:
    """The most accurate and the fastest run, in sentences."""
    bests = [
        (name, report.verified.best)
        for name, report in runs
        if report.verified is not None and report.verified.best is not None
    ]
    if len(bests) < 2:
        return []
    measure = MEASURE_TITLES[runs[0][1].measure]
    ordered = sorted(bests, key=lambda one: -one[1].evidence.accuracy.value)
    (name, one), (second, other) = ordered[:2]
    ours, theirs = one.evidence.accuracy, other.evidence.accuracy
    said = f"{name} has the highest {measure}, {100 * ours.value:.2f} % ({interval(ours)})"
    gap = f"{100 * (ours.value - theirs.value):.2f} points above {second}"
    apart = (
        "" if ours.low > theirs.high else "; their 95 % intervals overlap, chance may explain it"
    )
    sentences = [f"{said}, {gap}{apart}."]
    if ours.value == theirs.value:
        sentences = [f"{name} and {second} have the same {measure}, {100 * ours.value:.2f} %."]
    sizes = set.intersection(*(set(one.evidence.latency.milliseconds) for _, one in bests))
    if machines or not sizes:
        return sentences
    batch = min(sizes)
    timed = sorted((one.evidence.latency.milliseconds[batch], name) for name, one in bests)
    (least, fastest), (next_least, behind) = timed[:2]
    ratio = f", {times(next_least / least)} as fast as {behind}" if least > 0 else ""
    sentences.append(
        f"{fastest} is the fastest, {milliseconds(least)} ms for a batch of {batch}{ratio}."
    )
    return sentences


def _rows(runs: Runs, *, judged: bool, timed: bool) -> list[tuple[str, list[Cell]]]:
    """The rows of the table: a title, and a cell a run."""
    reports = [report for _, report in runs]
    bests = [None if one.verified is None else one.verified.best for one in reports]

    def every(title: str, cell: Callable[[Report], Cell]) -> tuple[str, list[Cell]]:
        return title, [cell(report) for report in reports]

    rows = [
        every("state", lambda report: Cell(str(report.state), report.state.reason)),
        every("version", lambda one: Cell(str(one.published.version) if one.published else "")),
        every("date", lambda one: Cell(one.created[:16].replace("T", " "))),
        every("network", lambda one: Cell(one.architecture)),
        every("input", lambda one: Cell(f"{one.input_size[1]}x{one.input_size[0]}")),
        every("data", lambda one: Cell(one.data.description)),
        every("test images", lambda one: Cell(f"{one.verified.images:,}" if one.verified else "")),
        ("variant", [Cell("" if best is None else best.title) for best in bests]),
    ]
    accuracies = [None if best is None else best.evidence.accuracy for best in bests]
    drops = [None if best is None else best.evidence.drop for best in bests]
    rows += [
        ("accuracy, %", _estimates(accuracies, highest=judged)),
        (
            "FP32 before compression, %",
            _estimates(
                [None if one.verified is None else one.verified.baseline for one in reports]
            ),
        ),
        ("drop, points", _estimates(drops)),
    ]
    sizes = sorted({n for b in bests if b is not None for n in b.evidence.latency.milliseconds})
    for size in sizes[:MOST_SIZES]:
        values = [
            None if best is None else best.evidence.latency.milliseconds.get(size) for best in bests
        ]
        rows.append((f"ms, batch {size}", _least(values, milliseconds, marked=timed)))
    rows += [
        (
            "file",
            _least([None if b is None else b.size_bytes for b in bests], kibibytes, marked=judged),
        ),
        every("parameters", lambda one: _parameters(one)),
        every("GMACs", lambda one: Cell(_macs(one))),
        every("build, minutes", lambda one: Cell(f"{sum(s.seconds for s in one.stages) / 60:.1f}")),
        every("machine", lambda one: Cell(one.verified.machine if one.verified else "")),
    ]
    return rows


def _estimates(values: Sequence[Estimate | None], *, highest: bool = False) -> list[Cell]:
    known = [value.value for value in values if value is not None]
    top = max(known) if highest and len(set(known)) > 1 else None
    return [
        Cell("")
        if value is None
        else Cell(f"{100 * value.value:.2f}", interval(value), value.value == top)
        for value in values
    ]


def _least(
    values: Sequence[Any], shown: Callable[[Any], str], *, marked: bool = True
) -> list[Cell]:
    known = [value for value in values if value is not None]
    least = min(known) if marked and len(set(known)) > 1 else None
    return [
        Cell("") if value is None else Cell(shown(value), best=value == least) for value in values
    ]


def _parameters(report: Report) -> Cell:
    found = report.verified
    if found is None:
        return Cell("")
    before = f"of {found.baseline_size.parameters:,}" if is_pruned(found) else ""
    return Cell(f"{found.network_size.parameters:,}", before)


def _macs(report: Report) -> str:
    return f"{report.verified.network_size.macs / 1e9:.4g}" if report.verified else ""


def _tradeoff(runs: Runs) -> Plot | None:
    """Accuracy against latency of all variants of all runs that passed."""
    every = [
        (index, name, one)
        for index, (name, report) in enumerate(runs)
        if report.verified is not None
        for one in report.verified.entries
        if one.evidence.gate.passed
    ]
    sizes = [set(one.evidence.latency.milliseconds) for _, _, one in every]
    common = set.intersection(*sizes) if sizes else set()
    if not common:
        return None
    batch = min(common)
    dots = [
        Dot(
            x=one.evidence.latency.milliseconds[batch],
            y=100 * one.evidence.accuracy.value,
            low=100 * one.evidence.accuracy.low,
            high=100 * one.evidence.accuracy.high,
            colour=index,
            title=f"{name}: {one.title}, {100 * one.evidence.accuracy.value:.2f} %, "
            f"{milliseconds(one.evidence.latency.milliseconds[batch])} ms",
        )
        for index, name, one in every
        if one.evidence.latency.milliseconds[batch] > 0
    ]
    measure = MEASURE_TITLES[runs[0][1].measure]
    return Plot(
        f"All variants that passed, in all engines: accuracy on the same test images, with 95 % "
        f"intervals, against the time of a batch of {batch}.",
        logarithmic("milliseconds (logarithmic)", [dot.x for dot in dots]),
        linear(f"{measure}, %", [v for dot in dots for v in (dot.low or 0.0, dot.high or 0.0)]),
        dots=dots,
        legend=tuple(
            (name, index, "circle", False)
            for index, (name, _) in enumerate(runs)
            if any(dot.colour == index for dot in dots)
        ),
        height=300,
    )


def _curves(runs: Runs) -> Plot | None:
    """The validation score of each run's training."""
    lines = []
    for index, (name, report) in enumerate(runs):
        found = next((one for one in report.training if one.stage == "train"), None)
        if found is not None:
            scores = [None if y is None else 100 * y for y in found.score]
            lines.append(Line(list(zip(found.epochs, scores, strict=True)), index, name))
    if len(lines) < 2:
        return None
    points = [point for line in lines for point in line.points]
    measure = MEASURE_TITLES[runs[0][1].measure]
    return Plot(
        f"Validation {measure} in training.",
        linear("epoch", [x for x, _ in points if x is not None], whole=True),
        linear(f"validation {measure}, %", [y for _, y in points if y is not None]),
        lines,
    )


def _classes(runs: Runs) -> list[tuple[str, list[float | None]]]:
    """The classes whose recall or IoU differ most between runs, and it in each run."""
    of_iou = TRAINED_TASKS[runs[0][1].task].class_measure == "IoU"

    def measured(row: ClassRow) -> float | None:
        return row.iou if of_iou else row.recall

    tables = [
        {row.name: measured(row) for row in report.verified.classes.rows if row.support}
        if report.verified is not None and report.verified.classes is not None
        else {}
        for _, report in runs
    ]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, [table.get(name) for table in tables]) for name in names]

    def spread(values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        return max(known) - min(known) if len(known) > 1 else 0.0

    apart = [row for row in rows if spread(row[1]) > 0]
    return sorted(apart, key=lambda row: -spread(row[1]))[:_CLASSES]


def _settings(runs: Runs) -> list[tuple[str, list[str]]]:
    """The values of the recipes that differ."""
    flat = [_flat(report.recipe) for _, report in runs]
    paths = dict.fromkeys(path for one in flat for path in one)
    rows = [(path, [one.get(path, "") for one in flat]) for path in paths]
    apart = [(path, values) for path, values in rows if len(set(values)) > 1]
    return [(as_name(path), [*map(as_name, values)]) for path, values in apart[:_SETTINGS]]


def _flat(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The values of a recipe by their dotted paths, as deep as recipes go."""
    values: dict[str, str] = {}
    left: list[tuple[str, Any, int]] = [(key, value, 1) for key, value in recipe.items()]
    while left:
        path, value, depth = left.pop(0)
        if isinstance(value, Mapping) and value and depth < _DEPTH:
            left += [(f"{path}.{key}", inner, depth + 1) for key, inner in value.items()]
        else:
            values[path] = _written(value, _DEPTH)
    return values


def _written(value: Any, depth: int) -> str:
    """A value as a recipe has it, in one line."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if not isinstance(value, list | Mapping):
        return quoted(value)
    if not depth:
        return "..."
    if isinstance(value, Mapping):
        parts = [f"{key}: {_written(inner, depth - 1)}" for key, inner in value.items()]
        return f"{{{', '.join(parts)}}}"
    return f"[{', '.join(_written(inner, depth - 1) for inner in value)}]"
