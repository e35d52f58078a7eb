"""The commands: usage, arguments, options with their defaults, from the typer apps."""

import importlib
import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer.main

from convserve.commands import COMMANDS
from scripts.reference.text import Undocumented, code, join, plain, sentence, table
from scripts.reference.types import type_of

_INTRODUCTION = """\
# Commands

`convserve COMMAND --help` says the same. Exit status: 0 done, 1 failed, 2 wrong usage.
"""
# An option that may come several times takes one value each time.
_ONE = {"list of texts": "text", "list of paths": "path", "list of integers": "integer"}
# By command, the page that has its options: each is more than an option.
_ELSEWHERE = {
    "serve": "Every [setting of a server](settings.md) is an option, and `--config FILE` reads "
    "them from a YAML file.",
}


def page() -> str:
    """The page."""
    found = leaves()
    summary = table(
        ["command", "does"],
        [[f"[`{name}`](#{anchor(name)})", first_line(one)] for name, one in found.items()],
    )
    return join([_INTRODUCTION, summary, *(section(name, one) for name, one in found.items())])


def leaves() -> dict[str, Any]:
    """Every command that does something itself, by the words that call it."""
    found: dict[str, Any] = {}
    for module, _ in COMMANDS.values():
        app = importlib.import_module(module).app
        found |= dict(_below(typer.main.get_command(app)))
    return found


def _below(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from _below(inner, f"{name} {word}".strip())


def anchor(name: str) -> str:
    """The anchor of a command's section."""
    return name.replace(" ", "-")


def first_line(command: Any) -> str:
    """The first sentence of a command's help."""
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return plain(text.partition(". ")[0].rstrip("."))


def section(name: str, command: Any) -> str:
    """The section of one command. Raises Undocumented for an option without a help."""
    if not command.help:
        raise Undocumented(f"command {name}: give its function a docstring")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    words = ["convserve", name, *(_usage(one) for one in arguments), "[OPTIONS]" if options else ""]
    help_text = (plain(part) for part in inspect.cleandoc(command.help).split("\n\n"))
    usage = "```text\n" + " ".join(filter(None, words)) + "\n```"
    blocks = [f"## {name} {{ #{anchor(name)} }}", *help_text, usage]
    if arguments:
        rows = [[code(_usage(one)), _meaning(name, one)] for one in arguments]
        blocks.append(table(["argument", "meaning"], rows))
    if name in _ELSEWHERE:
        blocks.append(_ELSEWHERE[name])
    elif options:
        rows = [[_flags(one), _value(one), default(one), _meaning(name, one)] for one in options]
        blocks.append(table(["option", "value", "default", "meaning"], rows))
    return join(blocks)


def default(option: Any) -> str:
    """What holds without an option; empty where nothing does."""
    value = option.default.value if isinstance(option.default, Enum) else option.default
    if isinstance(option.show_default, str):
        return plain(option.show_default)
    if option.is_flag and not option.secondary_opts:
        return "off"
    if option.is_flag:
        return "" if value is None else code(option.opts[0] if value else option.secondary_opts[0])
    if value is None or value in ("", [], ()):
        return ""
    return code(", ".join(map(str, value)) if isinstance(value, list | tuple) else value)


def _usage(argument: Any) -> str:
    word = (argument.metavar or argument.name).upper()
    word += "..." if argument.nargs == -1 and not word.endswith("...") else ""
    return word if argument.required else f"[{word}]"


def _flags(option: Any) -> str:
    flags = ", ".join(map(code, option.opts))
    return flags + (f" / {code(option.secondary_opts[0])}" if option.secondary_opts else "")


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    if option.metavar:
        return code(option.metavar)
    bounds = [(option.min, "≥"), (option.max, "≤")]
    limits = [f"{sign} {bound:,}" for bound, sign in bounds if bound is not None]
    kind = type_of(option.type_descriptor.annotation)
    return " ".join([_ONE.get(kind, kind), *limits])


def _meaning(name: str, parameter: Any) -> str:
    if not parameter.help:
        raise Undocumented(f"command {name}: {parameter.name} has no help")
    return sentence(parameter.help)
