"""`convserve runs`: the runs of a folder in a table."""

import json
from pathlib import Path
from typing import Annotated

import typer

from serving.base.command import AsJson, application
from serving.base.text import escaped
from training.cli.terminal import fail
from training.errors import BuildError
from training.evaluation.report.runs import document_of, find_runs, row_of
from training.evaluation.report.tables import print_table


def runs(
    folder: Annotated[
        Path, typer.Argument(help="Where builds left their runs, or one of them.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs: date, network, data, published version, accuracy, latency, size, state."""
    try:
        found = find_runs(folder)
    except BuildError as error:
        fail("runs", str(error))
    except OSError as error:
        fail("runs", f"{folder}: {error.strerror}")
    if as_json:
        typer.echo(json.dumps([document_of(run) for run in found], indent=2))
        return
    print_table(str(folder), [row_of(run) for run in found])
    for run in found:
        reason = run.problem or (run.report.state.reason if run.report is not None else "")
        if reason:
            typer.echo(escaped(f"{run.folder.name}: {reason}"))


app = application(runs)
