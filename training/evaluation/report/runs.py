"""The runs in a folder, as their reports tell them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.base.errors import quoted
from serving.base.evaluation import Estimate
from training.errors import BuildError
from training.evaluation.report.document import Report
from training.evaluation.report.report_file import REPORT_FILE, read_report
from training.evaluation.report.summary import kibibytes, milliseconds
from training.evaluation.report.tables import percent

# Entries of a folder that are looked at: each is a file to read.
_MOST_ENTRIES = 10_000


@dataclass(frozen=True)
class Run:
    """A run folder: its report, or why it has none that can be read."""

    folder: Path
    report: Report | None
    problem: str = ""


def find_runs(folder: Path) -> list[Run]:
    """The runs in a folder, the newest first, or the one that it is itself; those that cannot be
    read come last. Raises BuildError where there is no such folder, or no run in it."""
    if not folder.is_dir():
        raise BuildError(f"{folder}: no such folder; convserve build leaves its runs in runs/")
    if _is_run(folder):
        return [_run(folder)]
    entries = sorted(folder.iterdir())
    if len(entries) > _MOST_ENTRIES:
        raise BuildError(f"{folder}: has more than {_MOST_ENTRIES:,} entries; give a folder in it")
    found = [_run(entry) for entry in entries if entry.is_dir() and _is_run(entry)]
    if not found:
        raise BuildError(f"{folder}: has no runs; convserve build leaves some, --out says where")
    return sorted(found, key=_newest_first)


def _is_run(folder: Path) -> bool:
    try:
        return any((folder / name).exists() for name in (REPORT_FILE, "recipe.yaml"))
    except OSError:
        return True  # reading it says why it cannot be read


def _run(folder: Path) -> Run:
    try:
        return Run(folder, read_report(folder))
    except BuildError as error:
        return Run(folder, None, str(error))


def _newest_first(run: Run) -> tuple[bool, list[int], str]:
    created = "" if run.report is None else run.report.created
    return run.report is None, [-ord(letter) for letter in created], run.folder.name


def document_of(run: Run) -> dict[str, Any]:
    """A run as --json tells it."""
    report = run.report
    if report is None:
        return {"run": str(run.folder), "state": "unreadable", "problem": run.problem}
    found = report.verified
    best = found.best if found is not None else None
    return {
        "run": str(run.folder),
        "created": report.created,
        "recipe": report.name,
        "recipe_sha256": report.recipe_sha256,
        "task": report.task,
        "network": report.architecture,
        "input_size": list(report.input_size),
        "data": report.data.description,
        "data_sha256": report.data.sha256,
        "state": report.state.kind,
        "stage": report.state.stage,
        "reason": report.state.reason,
        "published_version": None if report.published is None else report.published.version,
        "measure": report.measure,
        "variant": None if best is None else best.variant,
        "engine": None if best is None else best.engine,
        "accuracy": None if best is None else best.evidence.accuracy.model_dump(),
        "latency_ms": None if best is None else dict(best.evidence.latency.milliseconds),
        "machine": None if best is None else best.evidence.latency.machine,
        "size_bytes": None if best is None else best.size_bytes,
    }


def row_of(run: Run) -> dict[str, str]:
    """A run as a row of the terminal's table."""
    report = run.report
    if report is None:
        columns = ("date", "network", "data", "version", "accuracy %", "ms", "file")
        return {"run": run.folder.name, **dict.fromkeys(columns, ""), "state": "unreadable"}
    found = report.verified
    best = found.best if found is not None else None
    latency = {} if best is None else best.evidence.latency.milliseconds
    accuracy: Estimate | None = None if best is None else best.evidence.accuracy
    height, width = report.input_size
    return {
        "run": run.folder.name,
        "date": report.created[:16].replace("T", " "),
        "network": f"{report.architecture} {width}x{height}",
        "data": _cut(report.data.description),
        "version": "" if report.published is None else str(report.published.version),
        "accuracy %": "" if accuracy is None else percent(accuracy),
        "ms": "" if not latency else f"{milliseconds(latency[min(latency)])} (b{min(latency)})",
        "file": "" if best is None else kibibytes(best.size_bytes),
        "state": str(report.state),
    }


def _cut(description: str) -> str:
    return description if len(description) <= 40 else description[:39] + "…"


def read_runs(folders: list[Path]) -> list[tuple[str, Report]]:
    """The reports of some runs, with names that differ: the folders', with as many of the folders
    around them as it takes. Raises BuildError."""
    resolved = [folder.resolve() for folder in folders]
    for index, folder in enumerate(resolved):
        if folder in resolved[:index]:
            raise BuildError(f"{quoted(str(folders[index]))}: is given twice")
    reports = [read_report(folder) for folder in folders]
    parts = 1
    while parts < 16 and len({folder.parts[-parts:] for folder in resolved}) < len(resolved):
        parts += 1
    names = [str(Path(*folder.parts[-parts:])) for folder in resolved]
    return list(zip(names, reports, strict=True))
