"""`convserve loadtest report`."""

from pathlib import Path
from typing import Annotated

import typer

from loadtest.cli import options as o
from loadtest.cli.output import Reports, deliver, failing
from loadtest.results import merge, read_run
from serving.base.command import AsJson


@failing
def report(
    files: Annotated[list[Path], typer.Argument(help="Raw files; several are merged.")],
    as_json: AsJson = False,
    html: o.Html = None,
    junit: o.JUnit = None,
    output: o.Output = None,
    fail_if: o.FailIf = None,
) -> None:
    """Report on raw results, of one machine or of several that ran together."""
    reports = Reports(as_json, output, html, junit, o.conditions(fail_if))
    reports.check_places()
    deliver(merge([read_run(path) for path in files]), reports)
