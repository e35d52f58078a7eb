"""`convserve report`: several runs side by side on one page."""

import json
from pathlib import Path
from typing import Annotated

import typer

from serving.base.command import AsJson, application
from serving.base.files import write_whole
from training.cli.terminal import fail
from training.errors import BuildError
from training.evaluation.report.comparison import (
    MOST_RUNS,
    comparison_page,
    different_data,
    different_machines,
)
from training.evaluation.report.report_file import PAGE_FILE
from training.evaluation.report.runs import read_runs


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of runs.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path(
        "comparison.html"
    ),
    as_json: AsJson = False,
) -> None:
    """Put runs side by side on one page, as far as they can be compared."""
    if len(runs) == 1:
        page = runs[0] / PAGE_FILE
        said = f"the page of one is {page}" if page.exists() else f"{runs[0]}: no run with a page"
        raise typer.BadParameter(f"expected two runs or more; {said}", param_hint="RUN")
    if len(runs) > MOST_RUNS:
        raise typer.BadParameter(f"expected at most {MOST_RUNS}, got {len(runs)}", param_hint="RUN")
    try:
        found = read_runs(runs)
        write_whole(output, comparison_page(found).encode())
    except BuildError as error:
        fail("report", str(error))
    except OSError as error:
        fail("report", f"{error.filename or output}: {error.strerror}")
    reasons = different_data(found)
    if as_json:
        document = {
            "page": str(output),
            "runs": [str(folder) for folder in runs],
            "comparable": not reasons,
            "reasons": reasons,
            "machines": different_machines(found),
        }
        typer.echo(json.dumps(document, indent=2))
        return
    for reason in reasons:
        typer.echo(f"Cannot be compared: {reason}")
    typer.echo(f"Page: {output}")


app = application(report)
