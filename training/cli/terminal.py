"""The commands of training on the terminal: their log, and the one line with which they fail."""

import logging
from typing import Any, NoReturn

import typer

from serving.base.command import stop
from serving.base.machine.progress import TerminalLog
from serving.base.machine.terminal import is_quiet, json_text, speaks
from serving.base.text import escaped


def set_up_logging() -> None:
    """Log lines go to stderr, as plain text; with --quiet warnings alone. Of the processes of
    torchrun the first one alone speaks."""
    terminal = TerminalLog()
    terminal.setFormatter(_Escaping("%(message)s"))
    level = logging.INFO if speaks() else logging.WARNING if is_quiet() else logging.ERROR
    logging.basicConfig(level=level, handlers=[terminal])
    # It tells of its cache when the process ends, below the last line of the command.
    logging.getLogger("torch._subclasses").setLevel(logging.WARNING)


def fail(command: str, reason: str) -> NoReturn:
    """One line on stderr, and exit status 1."""
    typer.echo(f"convserve {command}: {escaped(reason)}", err=True)
    raise typer.Exit(1)


def interrupted(command: str, what_holds: str) -> NoReturn:
    """As `fail` after Ctrl-C, with its exit status."""
    stop(f"convserve {command}: interrupted; {escaped(what_holds)}")


def print_json(document: Any) -> None:
    """Prints one JSON document on stdout."""
    typer.echo(json_text(document))


class _Escaping(logging.Formatter):
    """Names of files and classes are those of a data set, which others may have made."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))
