"""What every room of commands makes alike: the app of a command, the options that all have, and the
check of a choice."""

import functools
import inspect
import shutil
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from serving.base.errors import quoted
from serving.base.machine.terminal import be_quiet

Choice = TypeVar("Choice", bound=str)

# Exit status of a command that was asked for what it cannot be asked for, as typer has it.
WRONG_USAGE = 2
# Of one that Ctrl-C ended: 128 and the number of SIGINT, as of shells.
INTERRUPTED = 130

# Columns of a help: wider is hard to read, narrower leaves no room for words.
_WIDEST, _NARROWEST = 100, 30

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


def _width() -> int:
    return max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST))


class _Command(TyperCommand):
    """Its help is plain lines, which every terminal shows, with a section for each panel."""

    def get_help(self, ctx: Any) -> str:
        ctx.terminal_width = _width()
        return super().get_help(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                title = getattr(parameter, "rich_help_panel", None) or usual
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=min(30, formatter.width // 3))


class _Group(TyperGroup):
    """Its help is as wide as that of a command."""

    def get_help(self, ctx: Any) -> str:
        ctx.terminal_width = _width()
        return super().get_help(ctx)


def application(*commands: Callable[..., None]) -> typer.Typer:
    """The app of a sub-command, or of several, whose first argument is the sub-command's name."""
    app = _empty()
    for command in commands:
        app.command(cls=_Command)(as_command(command))
    return app


def grouped(name: str, about: str, **commands: Callable[..., None]) -> typer.Typer:
    """The app of a sub-command that has commands of its own, by their names."""
    app = _empty()
    inner = typer.Typer(help=about, no_args_is_help=True, cls=_Group, rich_markup_mode=None)
    for word, command in commands.items():
        inner.command(word, cls=_Command)(as_command(command))
    app.add_typer(inner, name=name)
    return app


def _empty() -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    # A callback makes it a group, so that the command's name is expected.
    app.callback()(lambda: None)
    return app


def as_command(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command --quiet, where it has none of its own, and its end by Ctrl-C: one line, and
    exit status 130."""
    signature = inspect.signature(command)
    own = _QUIET.name in signature.parameters

    @functools.wraps(command)
    def run(*, quiet: bool, **given: Any) -> None:
        be_quiet(quiet)
        try:
            command(**given, **({_QUIET.name: quiet} if own else {}))
        except KeyboardInterrupt:
            stop("convserve: interrupted")

    parameters = [*signature.parameters.values(), *([] if own else [_QUIET])]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
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
