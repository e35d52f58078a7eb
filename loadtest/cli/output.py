"""The end of a sub-command: its reports, or one line with the reason why there are none."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import typer

from loadtest.errors import LoadTestError
from loadtest.report.checks import Condition, check
from loadtest.report.html_page import render_page
from loadtest.report.junit import write_junit
from loadtest.report.summary import summarise
from loadtest.report.text import printable, render
from loadtest.results import Run, write_run
from serving.base.command import stop
from serving.base.files import write_whole
from serving.base.machine.terminal import json_text

Parameters = ParamSpec("Parameters")


@dataclass(frozen=True)
class Reports:
    """The reports that the options ask for, and the conditions that must not hold."""

    as_json: bool = False
    output: Path | None = None
    html: Path | None = None
    junit: Path | None = None
    conditions: Sequence[Condition] = ()

    def check_places(self) -> None:
        """Raises LoadTestError where a report has no folder, before any request is sent."""
        for path in (self.output, self.html, self.junit):
            if path is not None and not path.absolute().parent.is_dir():
                raise LoadTestError(f"{path}: there is no folder {path.absolute().parent}")


def fail(message: str) -> NoReturn:
    """Prints one line to stderr and exits with 1."""
    typer.echo(f"convserve: {' '.join(printable(message).split())}", err=True)
    raise typer.Exit(1)


def failing(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Wraps a command: a LoadTestError ends it with one line."""

    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except LoadTestError as error:
            fail(str(error))

    return wrapped


def deliver(run: Run, reports: Reports, *, interrupted: bool = False) -> None:
    """Writes and prints every report. Exits with 1 where a check failed, with a line for each, and
    as every command where Ctrl-C ended the run early.

    A search is not checked, as some of its steps have to fail.
    """
    if interrupted and not any(len(phase.measured) for phase in run.phases):
        stop("convserve: interrupted; nothing was measured")
    if reports.output is not None:
        write_run(run, reports.output)
    document = summarise(run)
    checks = [] if "search" in run.settings else check(document, reports.conditions)
    failures = [c.failure for c in checks if c.failure]
    if reports.html is not None:
        _write(reports.html, render_page(run, document, failures))
    if reports.junit is not None:
        write_junit(document, checks, reports.junit)
    if reports.as_json:
        document["failures"] = failures
        typer.echo(json_text(document))
    else:
        typer.echo(render(document))
    for failure in failures:
        typer.echo(f"convserve: {printable(failure)}", err=True)
    if interrupted:
        stop("convserve: interrupted; the report is of what was measured until then")
    if failures:
        raise typer.Exit(1)


def _write(path: Path, content: str) -> None:
    try:
        write_whole(path, content.encode())
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror}") from error


def named(settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Settings as the raw file keeps them: of `more`, only options that were given."""
    return {**settings, **{key: value for key, value in more.items() if value}}
