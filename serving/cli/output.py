"""What every sub-command shares: how it is run, how it fails, and how it prints."""

import json
from collections.abc import Callable
from typing import Any, NoReturn

import typer


def application(command: Callable[..., None]) -> typer.Typer:
    """The app of one sub-command, which is called with the sub-command's name first."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # A group, though of one command only.
    app.callback()(lambda: None)
    app.command()(command)
    return app


def fail(message: str) -> NoReturn:
    """One line on stderr and exit status 1."""
    typer.echo(f"convserve: {' '.join(message.split())}", err=True)
    raise typer.Exit(1)


def warn(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"convserve: {message}", err=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
