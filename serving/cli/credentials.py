"""The options by which a command that calls a server says who calls."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from serving.base.files import read_file
from serving.server.access.caller import API_KEY, AUTHORIZATION

_PANEL = "Who calls"
# Bytes of a key or a token in its file.
_LARGEST = 16 << 10

_KEY = Annotated[
    Path | None, typer.Option(help="File that holds an API key.", rich_help_panel=_PANEL)
]
_TOKEN = Annotated[
    Path | None,
    typer.Option(help="File that holds a bearer token (JWT).", rich_help_panel=_PANEL),
]


def with_credentials(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options, which it gets as its keyword `headers`: a mapping that is sent
    with every call, or None where none of them is given. Files, since every user of a machine can
    read the arguments of a command."""

    @functools.wraps(command)
    def run(**given: object) -> None:
        key, token = given.pop("api_key_file"), given.pop("token_file")
        headers = {}
        if isinstance(key, Path):
            headers[API_KEY] = _read(key, "--api-key-file")
        if isinstance(token, Path):
            headers[AUTHORIZATION] = f"Bearer {_read(token, '--token-file')}"
        command(**given, headers=headers or None)

    signature = inspect.signature(command)
    kept = [one for one in signature.parameters.values() if one.name != "headers"]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in (("api_key_file", _KEY), ("token_file", _TOKEN))
    ]
    run.__signature__ = signature.replace(parameters=[*kept, *options])  # type: ignore[attr-defined]
    return run


def _read(file: Path, option: str) -> str:
    """The word in a file. Ends the command with a usage error where there is none."""
    try:
        content = read_file(file, _LARGEST)
    except OSError as error:
        raise typer.BadParameter(f"{option}: {file} cannot be read: {error.strerror}") from error
    words = content.split()
    if len(words) != 1 or not words[0].isascii():
        # Not repeated: it may be a key.
        raise typer.BadParameter(f"{option}: {file}: expected one word, got {len(words)}")
    return words[0].decode()
