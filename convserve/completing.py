"""Words that a shell offers behind `convserve ...`.

The options of all commands are gathered once for each version and kept, since importing the
commands takes longer than a person waits for a TAB.
"""

import importlib
import importlib.metadata
import json
import os
import shlex
import sys
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from convserve.commands import COMMANDS

# A line that tells the shell to offer files.
FILES = ":files"
# Entries of a folder that are looked at. More find names in larger folders, and take longer.
_MOST = 2000
# Characters of a description.
_LENGTH = 70
_REPOSITORY = "model_repo"
_RECIPES = (".yaml", ".yml")

# By the words that call a command: its line in the help, its options (about, value) and the words
# that may follow an option. A value is "" where it takes none.
Table = dict[str, dict[str, Any]]


def answer(arguments: list[str]) -> None:
    """Prints what may stand at a place: the number of the word and the words so far, as shells have
    them. A line is a word, a tab and its description."""
    if not arguments or not arguments[0].isdecimal():
        return
    number, words = int(arguments[0]), arguments[1:]
    # bash makes three words of --model=m.
    so_far = [_unquoted(word) for word in words[1:number] if word != "="]
    begun = _unquoted(words[number]) if number < len(words) and words[number] != "=" else ""
    flag, equals, _ = begun.partition("=")
    before = f"{flag}=" if flag.startswith("--") and equals else ""
    if before:
        so_far.append(flag)
    value = begun.removeprefix(before)
    for word, about in candidates(so_far, value):
        if word == FILES or word.startswith(value):
            sys.stdout.write(f"{word if word == FILES else before + word}\t{about}\n")


def _unquoted(word: str) -> str:
    """A word of a shell as the command gets it; one whose quotes are still open as it is."""
    try:
        parts = shlex.split(word)
    except ValueError:
        return word
    return parts[0] if len(parts) == 1 else word


def candidates(so_far: list[str], begun: str) -> Iterator[tuple[str, str]]:
    """Words and descriptions after `so_far`, the first of which is the command."""
    if not so_far:
        yield from ((name, about) for name, (_, about) in COMMANDS.items())
        return
    if so_far[0] not in COMMANDS:
        return
    found = table()
    name = " ".join(so_far[:2]) if " ".join(so_far[:2]) in found else so_far[0]
    command = found.get(name)
    if command is None:
        for full, inner in found.items():
            if full.startswith(f"{so_far[0]} "):
                yield full.split()[1], inner["about"]
        return
    option = command["options"].get(so_far[-1])
    if option is not None and option["value"]:
        yield from _values(so_far, so_far[-1], option)
    elif begun.startswith("-"):
        yield from ((flag, each["about"]) for flag, each in command["options"].items())
    elif command["argument"] == "recipe":
        yield from _recipes(begun)
    elif command["argument"]:
        yield FILES, ""
    else:
        yield from ((flag, each["about"]) for flag, each in command["options"].items())


def _values(so_far: list[str], flag: str, option: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if option["words"]:
        yield from ((word, "") for word in option["words"])
    elif flag == "--model":
        places = [after for word, after in pairwise(so_far) if word == "--model-repository"]
        for place in places or [_REPOSITORY]:
            yield from ((name, f"in {place}") for name in _models(Path(place)))
    else:
        yield FILES, ""


def _models(repository: Path) -> list[str]:
    """Names of models of a repository that is a folder."""
    try:
        place = repository.expanduser()
        with os.scandir(place) as entries:
            folders = [entry.name for entry in islice(entries, _MOST) if entry.is_dir()]
    except (OSError, RuntimeError):  # no such folder, or no such home
        return []
    return sorted(
        name
        for name in folders
        if not name.startswith(".") and (place / name / "config.pbtxt").exists()
    )


def _recipes(begun: str) -> Iterator[tuple[str, str]]:
    """Recipe files that begin so, and folders on the way; else all files."""
    folder, _, _ = begun.rpartition("/")
    shown = f"{folder}/" if "/" in begun else ""
    try:
        with os.scandir(shown or ".") as entries:
            found = sorted(
                shown + entry.name + ("/" if entry.is_dir() else "")
                for entry in islice(entries, _MOST)
                if not entry.name.startswith(".")
                and (entry.is_dir() or entry.name.endswith(_RECIPES))
            )
    except OSError:
        found = []
    matching = [name for name in found if name.startswith(begun)]
    yield from ((name, "") for name in matching) if matching else [(FILES, "")]


def table() -> Table:
    """Every command with its options: as kept, or gathered anew for another version."""
    version = importlib.metadata.version("convserve")
    file = _kept()
    if file is not None:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            if document["version"] == version and document["commands"] == list(COMMANDS):
                return dict(document["table"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it is gathered, and kept anew
    found = gathered()
    if file is not None:
        document = {"version": version, "commands": list(COMMANDS), "table": found}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{file.name}.{os.getpid()}")
            partial.write_text(json.dumps(document), encoding="utf-8")
            partial.replace(file)
        except OSError:
            pass  # the next TAB takes as long
    return found


def _kept() -> Path | None:
    """Where the table is kept; None where nobody has a home."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    except RuntimeError:
        return None
    return Path(cache) / "convserve" / "completion.json"


def gathered() -> Table:
    """The table, out of the commands themselves; takes seconds."""
    import typer.main

    found: Table = {}
    for module in dict.fromkeys(module for module, _ in COMMANDS.values()):
        try:
            app = importlib.import_module(module).app
        except ModuleNotFoundError:  # an extra that is not installed
            continue
        for name, command in _leaves(typer.main.get_command(app)):
            options = {
                flag: _option(parameter)
                for parameter in command.params
                if parameter.param_type_name == "option"
                for flag in (*parameter.opts, *parameter.secondary_opts)
                if flag.startswith("--")
            }
            first = next((p for p in command.params if p.param_type_name == "argument"), None)
            argument = "" if first is None else "recipe" if first.name == "recipe" else "file"
            about = (command.help or "").partition("\n")[0]
            found[name] = {"about": about[:_LENGTH], "options": options, "argument": argument}
    return found


def _leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from _leaves(inner, f"{name} {word}".strip())


def _option(parameter: Any) -> dict[str, Any]:
    # Releases of typer have the choices of a Literal in one place or the other.
    described = getattr(parameter, "type_descriptor", None)
    words = list(
        get_args(described.annotation)
        if described is not None and get_origin(described.annotation) is Literal
        else getattr(getattr(parameter, "type", None), "choices", ())
    )
    metavar = parameter.metavar or ""
    if not words and "|" in metavar:
        words = [word for word in metavar.strip("[]").split("|") if word and word.islower()]
    value = "" if parameter.is_flag else metavar or "VALUE"
    about = " ".join((parameter.help or "").split())
    return {"about": about[:_LENGTH], "value": value, "words": words}
