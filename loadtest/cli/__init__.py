"""`convserve loadtest run|search|report`. The only place that exits."""

import typer

from loadtest.cli.report import report
from loadtest.cli.run import run
from loadtest.cli.search import search

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
_loadtest = typer.Typer(no_args_is_help=True, help="Put a server under load and measure it.")
for _command in (run, search, report):
    _loadtest.command()(_command)
app.add_typer(_loadtest, name="loadtest")


@app.callback()
def _convserve() -> None:
    """Keeps `loadtest` a name of its own in front of its sub-commands."""
