"""What every room of commands makes alike: the app of a command, the options that all have, and the
check of a choice."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from serving.base.errors import quoted
from serving.base.terminal import be_quiet

Choice = TypeVar("Choice", bound=str)

# Of a command that Ctrl-C ended: 128 and the number of SIGINT, as of shells.
INTERRUPTED = 130

AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document and nothing else on stdout.", show_default="off"
    ),
]
"""The option --json."""

_QUIET = inspect.Parameter(
    "quiet",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--quiet", help="Leave out progress, notes and the next step.", show_default="off"
        ),
    ],
)


def application(*commands: Callable[..., None]) -> typer.Typer:
    """The app of a sub-command, or of several, whose first argument is the sub-command's name."""
    app = _empty()
    for command in commands:
        app.command()(as_command(command))
    return app


def grouped(name: str, about: str, **commands: Callable[..., None]) -> typer.Typer:
    """The app of a sub-command that has commands of its own, by their names."""
    app, inner = _empty(), typer.Typer(help=about, no_args_is_help=True)
    for word, command in commands.items():
        inner.command(word)(as_command(command))
    app.add_typer(inner, name=name)
    return app


def _empty() -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    # A callback makes it a group, so that the command's name is expected.
    app.callback()(lambda: None)
    return app


def as_command(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command --quiet, and its end by Ctrl-C: one line, and exit status 130."""

    @functools.wraps(command)
    def run(*, quiet: bool, **given: Any) -> None:
        be_quiet(quiet)
        try:
            command(**given)
        except KeyboardInterrupt:
            stop("convserve: interrupted")

    signature = inspect.signature(command)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), _QUIET]
    )
    return run


def stop(line: str) -> NoReturn:
    """Ends a command that Ctrl-C interrupted, with one line on stderr."""
    typer.echo(line, err=True)
    raise typer.Exit(INTERRUPTED)


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
