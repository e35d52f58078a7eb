"""--help of every command: each option says what it does and what holds without it."""

import importlib
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from convserve.commands import COMMANDS
from serving.base import command as layout
from serving.server.config import ServerConfig

# Options without a default of their own, and the one that the command takes for them.
IMPLIED = {
    ("init", "--minutes"): "10",
    ("build", "--until"): "publish",
    ("loadtest run", "--concurrency"): "1",
    ("loadtest run", "--duration"): "10s",
    ("rebuild", "--model"): "all",
    ("rebuild", "--workspace-mib"): "all",
}


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below a command that does something itself, with the words that call it."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from leaves(inner, f"{name} {word}".strip())


def commands() -> dict[str, tuple[Any, Any]]:
    """The app and the command by the words that call it."""
    found = {}
    for module, _ in COMMANDS.values():
        app = importlib.import_module(module).app
        found |= {name: (app, leaf) for name, leaf in leaves(typer.main.get_command(app))}
    return found


def defaults_told(app: Any, name: str) -> dict[str, str | None]:
    """By option, the default that the help shows; None where it shows none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_WIDEST", 600)
        result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "600"})
    assert result.exit_code == 0, result.output
    told = {}
    for option in re.split(r"\n  (?=--)", result.output)[1:]:
        default = re.search(r"\[default: \(?(.*?)\)?(?:; .*)?\]", option)
        told[option.split()[0].rstrip(",")] = default[1] if default else None
    return told


@pytest.mark.parametrize("name", commands())
def test_help_shows_the_default_of_every_option(name: str) -> None:
    app, command = commands()[name]
    told = defaults_told(app, name)
    options = [p for p in command.params if p.param_type_name == "option"]
    assert {option.opts[0] for option in options} <= set(told)
    for option in options:
        flag = option.opts[0]
        default = option.default.value if isinstance(option.default, Enum) else option.default
        if (name, flag) in IMPLIED:
            assert (told[flag] or "").startswith(IMPLIED[name, flag])
        elif option.secondary_opts and default is None:
            assert "by default" in option.help
        elif option.secondary_opts:
            shown = flag if default else option.secondary_opts[0]
            assert told[flag] == shown.removeprefix("--")
        elif option.is_flag:
            assert (default, told[flag]) == (False, "off")
        elif default not in (None, ""):
            assert told[flag] == str(default), flag
        assert option.help, flag


def test_help_of_serve_shows_the_defaults_of_the_settings() -> None:
    app, _ = commands()["serve"]
    told = defaults_told(app, "serve")
    for name, field in ServerConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(field.default, bool):
            assert told[flag] == ("" if field.default else "no-") + flag.removeprefix("--")
        elif not field.is_required() and field.default not in (None, ""):
            assert told[flag] == str(field.default)
