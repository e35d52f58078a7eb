"""The command line's apps, which every room of commands makes alike."""

from collections.abc import Callable

import typer


def application(command: Callable[..., None]) -> typer.Typer:
    """The app of one sub-command, whose first argument is the sub-command's name."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # A callback makes it a group, so that the command's name is expected.
    app.callback()(lambda: None)
    app.command()(command)
    return app
