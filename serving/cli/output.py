"""The failure and the printing of a sub-command."""

from typing import Any, NoReturn

import typer

from serving.base.machine.terminal import json_text
from serving.base.text import one_line, printable

# Characters of a line. Longer ones come from a server that fills the screen, or name long paths.
_LINE_LENGTH = 2000


def say(line: str) -> None:
    """Prints one line on stdout. Names and reasons in it may be those of a server."""
    typer.echo(printable(line, _LINE_LENGTH))


def fail(message: str) -> NoReturn:
    """Prints one line on stderr and ends with exit status 1."""
    warn(message)
    raise typer.Exit(1)


def warn(message: str) -> None:
    """Prints one line on stderr."""
    typer.echo(f"convserve: {one_line(message, _LINE_LENGTH)}", err=True)


def print_json(document: Any) -> None:
    """Prints one JSON document on stdout."""
    typer.echo(json_text(document))
