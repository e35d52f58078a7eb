"""What every room of commands makes alike: the app of a command, and the check of a choice."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import typer

from serving.base.errors import quoted

Choice = TypeVar("Choice", bound=str)


def application(command: Callable[..., None]) -> typer.Typer:
    """The app of one sub-command, whose first argument is the sub-command's name."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # A callback makes it a group, so that the command's name is expected.
    app.callback()(lambda: None)
    app.command()(command)
    return app


def one_of(value: str | None, choices: Sequence[Choice], option: str) -> Choice | None:
    """The value of an option; None where it is not given. Ends the command with a usage error where
    it is none of the choices."""
    if value is None:
        return None
    for choice in choices:
        if value == choice:
            return choice
    raise typer.BadParameter(
        f"expected one of {', '.join(choices)}; got {quoted(value)}", param_hint=option
    )
