"""The app, the failure and the printing of a sub-command."""

import json
from collections.abc import Callable
from typing import Any, NoReturn

import typer


def application(command: Callable[..., None]) -> typer.Typer:
    """The app of one sub-command, whose first argument is the sub-command's name."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # A callback makes it a group, so that the command's name is expected.
    app.callback()(lambda: None)
    app.command()(command)
    return app


def fail(message: str) -> NoReturn:
    """Prints one line on stderr and ends with exit status 1."""
    typer.echo(f"convserve: {' '.join(message.split())}", err=True)
    raise typer.Exit(1)


def warn(message: str) -> None:
    """Prints one line on stderr."""
    typer.echo(f"convserve: {' '.join(message.split())}", err=True)


def print_json(document: Any) -> None:
    """Prints one JSON document on stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
