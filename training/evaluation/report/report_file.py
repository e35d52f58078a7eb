"""report.json on disk.

Reading one needs neither torch nor the data of the run, and is bounded: it may be somebody else's.
"""

import json
import math
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from serving.base.errors import quoted
from serving.base.text import NotText, first_problem, read_text
from training.errors import BuildError
from training.evaluation.report.document import SCHEMA_VERSION, Report

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"

# Bytes of a report.json: ten times those of the largest that a build writes.
_MOST_BYTES = 8 << 20


def read_report(run: Path) -> Report:
    """The report of a run folder, which anybody may have made. Raises BuildError in one line."""
    path = run / REPORT_FILE
    try:
        text = read_text(run, REPORT_FILE, limit=_MOST_BYTES)
        document = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (FileNotFoundError, NotADirectoryError):
        raise BuildError(_missing(run)) from None
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from error
    except NotText as error:
        raise BuildError(f"{path}: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise BuildError(f"{path}: not valid JSON: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if str(version).partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        expected = SCHEMA_VERSION.partition(".")[0]
        raise BuildError(f"{path}: schema_version: expected {expected}.x, got {quoted(version)}")
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        where, wrong = first_problem(error)
        raise BuildError(f"{path}: {where or 'document'}: {wrong}") from error


def _missing(run: Path) -> str:
    if run.is_file():
        return f"{run}: a file; expected the folder of a run, such as {run.parent}"
    if not run.is_dir():
        return f"{run}: no such folder"
    if (run / "recipe.yaml").exists():
        return (
            f"{run}: has no {REPORT_FILE}: its build ended before the data were read, or is of an "
            "older version; build it again"
        )
    return f"{run}: is no run folder: it has no {REPORT_FILE}"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return value


def write_json(path: Path, report: Report) -> None:
    """Writes report.json in one step."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
