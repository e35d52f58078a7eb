"""The table of a run, and its files."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.serving.speed.rounds import Case, Hole, Measurement

_HEAD = (
    "| workload | subject | answers/s | CPU ms an answer | p50 ms | p99 ms | generator | "
    "others | ours ÷ it: answers/s | CPU |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)
# Characters of a reason in the table; the raw file has the whole reason.
_REASON = 200


def write(cases: Sequence[Case], note: str, folder: Path) -> str:
    """Writes speed.md and speed.json with all figures so far. Returns the content of speed.md."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(filter(None, (table(cases), added(cases), note))) + "\n"
    (folder / "speed.md").write_text(text)
    raw = {f"{case.workload}: {case.name}": [_raw(found) for found in case.found] for case in cases}
    (folder / "speed.json").write_text(json.dumps(raw, indent=2, allow_nan=False))
    return text


def _raw(found: Measurement | Hole) -> dict[str, Any]:
    """The figures of a round, with None for nan, which JSON lacks."""
    values = asdict(found)
    return {name: None if value != value else value for name, value in values.items()}


def table(cases: Sequence[Case]) -> str:
    """Markdown: medians with the lowest and highest over the rounds that count, and ratios to ours
    within rounds. A subject that was never measured is a hole with the reason."""
    ours = {case.workload: case for case in cases if case.name == "ours"}
    return "\n".join([_HEAD, *(_row(case, ours.get(case.workload)) for case in cases)])


_ADDED_HEAD = (
    "| workload | subject | beside | µs of CPU more an answer | wanted at most |\n"
    "| --- | --- | --- | --- | --- |"
)


def added(cases: Sequence[Case]) -> str:
    """Markdown: the CPU that an answer takes more than another subject's, for cases with a bar:
    medians of differences within rounds, with the lowest and highest. Empty where there is none."""
    by_name = {(case.workload, case.name): case for case in cases}
    rows = []
    for case in cases:
        if case.bar is None:
            continue
        pairs = pairs_of(by_name[case.workload, case.bar.beside], case)
        more = [(b.cpu - a.cpu) * 1e6 for a, b in pairs]
        cells = [case.workload, case.name, case.bar.beside, spread(more, 1) if more else ""]
        rows.append(f"| {' | '.join(cells)} | {case.bar.microseconds:g} |")
    return "\n".join([_ADDED_HEAD, *rows]) if rows else ""


def _row(case: Case, ours: Case | None) -> str:
    measured = case.measured
    if not measured:
        reason = case.holes[-1].reason if case.holes else "not measured yet"
        return f"| {case.workload} | {case.name} | {cell(reason)} |" + " |" * 7
    counted = [m for m in measured if not m.void] or measured
    name = case.name + (" (void)" if all(m.void for m in measured) else "")
    if case.holes:
        failed = f"{len(case.holes)} of {len(case.found)} rounds failed"
        name += f" ({failed}: {cell(case.holes[-1].reason)})"
    rate, cpu = _ratios(ours, case)
    cells = [
        case.workload,
        name,
        spread([m.rate for m in counted], 0),
        spread([m.cpu * 1e3 for m in counted], 3),
        spread([m.p50 for m in counted], 2),
        spread([m.p99 for m in counted], 1),
        f"{statistics.median(m.generator for m in counted):.0%}",
        share(statistics.median(m.others for m in counted)),
        rate,
        cpu,
    ]
    return f"| {' | '.join(cells)} |"


def _ratios(ours: Case | None, case: Case) -> tuple[str, str]:
    """Medians of our figure ÷ the subject's, for rate and CPU, within the rounds that measured
    both."""
    pairs = pairs_of(ours, case) if ours else []
    if not pairs:
        return "", ""
    rate = statistics.median(a.rate / b.rate for a, b in pairs)
    cpu = statistics.median(a.cpu / b.cpu if b.cpu else math.nan for a, b in pairs)
    return f"{rate:.2f}", "" if math.isnan(cpu) else f"{cpu:.2f}"


def pairs_of(other: Case, case: Case) -> list[tuple[Measurement, Measurement]]:
    """The measurements of both within rounds that measured both; those that count, if there are."""
    pairs = [
        (a, b)
        for a, b in zip(other.found, case.found, strict=False)
        if isinstance(a, Measurement) and isinstance(b, Measurement)
    ]
    return [(a, b) for a, b in pairs if not (a.void or b.void)] or pairs


def spread(values: list[float], digits: int) -> str:
    """Median with the lowest and highest; empty where a value is nan."""
    if any(math.isnan(value) for value in values):
        return ""
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def share(value: float) -> str:
    """In percent; empty for nan."""
    return "" if math.isnan(value) else f"{value:.1%}"


def cell(text: str) -> str:
    """The text in one line, with characters escaped that would end a cell of Markdown."""
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= _REASON else f"{line[:_REASON]}…"
