"""The table of a run: figures of each subject, ratios between them, and what limits ours."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.job.measuring import LATENCY_LOAD, Figures
from benchmarks.job.subjects import FP32, INT8, INT8_IN_TRITON, SEARCHED, Row
from benchmarks.serving.speed.rounds import Case
from benchmarks.serving.speed.table import cell, pairs_of, share, spread
from serving.base.evaluation import Estimate

_HEAD = (
    "| work | subject | runs | images/s | CPU ms an image | CPU h a million | "
    f"p50 ms at {LATENCY_LOAD:.0%} | p99 ms | accuracy under load, % | MB | build | others |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)
_COLUMNS = 12
_RATIO_HEAD = (
    "| work | compared | images/s | wanted | CPU | accuracy, points |\n"
    "| --- | --- | --- | --- | --- | --- |"
)


class Bar(NamedTuple):
    """How many times the images/s of another subject are wanted."""

    name: str
    beside: str
    wanted: float


BARS = (
    Bar(INT8, INT8_IN_TRITON, 1.1),
    Bar(SEARCHED, FP32["onnxruntime"], 6.0),
    Bar(SEARCHED, FP32["openvino"], 3.0),
)


class Ratio(NamedTuple):
    """A subject beside another one.

    rate, cpu: medians of ratios within rounds, of images/s and of CPU an image.
    points: accuracy of the subject less that of the other.
    """

    bar: Bar
    rate: float
    cpu: float
    points: float


def figures_of(case: Case) -> list[Figures]:
    """The rounds that count; all where none does."""
    measured = [found for found in case.found if isinstance(found, Figures)]
    return [found for found in measured if not found.void] or measured


def accuracy_of(case: Case) -> Estimate:
    """That of the round that compared most images."""
    return max((found.accuracy for found in figures_of(case)), key=lambda found: found.n)


def ratios(rows: Sequence[Row]) -> list[tuple[str, Ratio]]:
    """The bars by workload, where both subjects were measured."""
    found = []
    cases = {(row.case.workload, row.case.name): row.case for row in rows}
    for workload in dict.fromkeys(workload for workload, _ in cases):
        for bar in BARS:
            one, other = cases.get((workload, bar.name)), cases.get((workload, bar.beside))
            if one is None or other is None or not (pairs := pairs_of(one, other)):
                continue
            rate = statistics.median(a.rate / b.rate for a, b in pairs)
            cpu = statistics.median(a.cpu / b.cpu if b.cpu else math.nan for a, b in pairs)
            points = 100 * (accuracy_of(one).value - accuracy_of(other).value)
            found.append((workload, Ratio(bar, rate, cpu, points)))
    return found


def limits(row: Row) -> dict[str, float]:
    """CPU seconds an image by part, for a subject of ours that was measured; the wire is all that
    no other part is: messages, calls, batches, waiting threads."""
    found = figures_of(row.case)
    if row.served.parts is None or not found:
        return {}
    whole = statistics.median(one.cpu for one in found)
    return {**row.served.parts, "wire": max(0.0, whole - sum(row.served.parts.values()))}


def table(rows: Sequence[Row], note: str) -> str:
    """Markdown: medians with the lowest and highest over the rounds that count, ratios within
    rounds, the parts of our CPU, and the note. A subject that was never measured is a hole with the
    reason."""
    lines = [_HEAD, *map(_row, rows)]
    if compared := ratios(rows):
        lines += ["", _RATIO_HEAD, *(_ratio(workload, ratio) for workload, ratio in compared)]
    if parts := [text for row in rows if (text := _limits(row))]:
        lines += ["", "CPU of an image by its parts, the largest first:", "", *parts]
    return "\n".join([*lines, "", note]) + "\n"


def _row(row: Row) -> str:
    case, served = row.case, row.served
    found = figures_of(case)
    if not found:
        reason = case.holes[-1].reason if case.holes else "not measured yet"
        return f"| {case.workload} | {case.name} | {cell(reason)} |" + " |" * (_COLUMNS - 3)
    name = case.name + (" (void)" if all(one.void for one in found) else "")
    if case.holes:
        failed = f"{len(case.holes)} of {len(case.found)} rounds failed"
        name += f" ({failed}: {cell(case.holes[-1].reason)})"
    cpu = statistics.median(one.cpu for one in found)
    cells = [
        case.workload,
        name,
        f"{served.variant}, {served.engine}",
        spread([one.rate for one in found], 0),
        spread([one.cpu * 1e3 for one in found], 3),
        "" if math.isnan(cpu) else f"{cpu * 1e6 / 3600:.2f}",
        spread([one.p50 for one in found], 2),
        spread([one.p99 for one in found], 1),
        _percent(accuracy_of(case)),
        f"{served.megabytes:.2f}",
        _duration(served.seconds),
        share(statistics.median(one.others for one in found)),
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(workload: str, ratio: Ratio) -> str:
    bar = ratio.bar
    cells = [
        workload,
        f"{bar.name} ÷ {bar.beside}",
        f"{ratio.rate:.2f}" if ratio.rate >= bar.wanted else f"**{ratio.rate:.2f}**",
        f"{bar.wanted:g}",
        "" if math.isnan(ratio.cpu) else f"{ratio.cpu:.2f}",
        f"{ratio.points:+.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _limits(row: Row) -> str:
    found = limits(row)
    whole = sum(found.values())
    if not whole or math.isnan(whole):
        return ""
    parts = sorted(found.items(), key=lambda part: -part[1])
    told = ", ".join(f"{name} {1e3 * cpu:.3f} ms ({cpu / whole:.0%})" for name, cpu in parts)
    return f"- {row.case.workload}, {row.case.name}: {told}"


def _percent(found: Estimate) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}] of {found.n:,}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 100:
        return f"{minutes / 60:.1f} h"
    return f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"


def document(rows: Sequence[Row], note: str) -> dict[str, Any]:
    """All figures as JSON can hold them: None for nan."""
    return {
        "note": note,
        "rows": [
            {
                "work": row.case.workload,
                "subject": row.case.name,
                "served": _plain(asdict(row.served)),
                "rounds": [_plain(asdict(found)) for found in row.case.found],
                "cpu_by_part": _plain(limits(row)),
            }
            for row in rows
        ],
        "ratios": [
            _plain(
                {
                    "work": workload,
                    "subject": ratio.bar.name,
                    "beside": ratio.bar.beside,
                    "wanted": ratio.bar.wanted,
                    "images_per_second": ratio.rate,
                    "cpu": ratio.cpu,
                    "points": ratio.points,
                }
            )
            for workload, ratio in ratios(rows)
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, Estimate):
        return value.model_dump()
    return None if isinstance(value, float) and math.isnan(value) else value


def write(rows: Sequence[Row], note: str, folder: Path) -> str:
    """Writes job.md and job.json with all figures so far. Returns the content of job.md."""
    folder.mkdir(parents=True, exist_ok=True)
    text = table(rows, note)
    (folder / "job.md").write_text(text)
    (folder / "job.json").write_text(json.dumps(document(rows, note), indent=2, allow_nan=False))
    return text
