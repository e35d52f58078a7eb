"""Every `convserve ...` in the documents is a command that there is, with options that it has."""

import re
import shlex
from collections.abc import Iterator

import pytest
from typer import Exit
from typer.testing import CliRunner

from convserve.commands import COMMANDS
from scripts.reference.commands import leaves
from tests.docs.documents import documents, inline_code, name_of, shell_lines

NAMES = [name_of(path) for path in documents()]
LEAVES = leaves()
GROUPS = {name.split(" ")[0] for name in LEAVES if " " in name}


def commands_in(line: str) -> Iterator[list[str]]:
    """The arguments of each call of convserve in a line of shell."""
    # Brackets and dots stand for what is left open; 2> is of the shell.
    line = re.sub(r"^\$ ", "", re.sub(r"[\[\]…]|\.\.\.|\b\d(?=>)", " ", line))
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # a quotation that goes on in the next line
        return
    call: list[str] | None = None
    begins = True
    for word in [*words, ";"]:
        if word == "convserve" and begins:
            call = []
        elif set(word) <= set("();<>|&"):
            if call:
                yield call
            call = None
        elif call is not None:
            call.append(word)
        # A command stands first, after variables, or as a module of Python.
        begins = word == "-m" or bool(re.fullmatch(r"[();|&]+|\w+=.*", word))


def fault_of(arguments: list[str], *, whole: bool) -> str:
    """What convserve would say to its arguments; empty where it takes them.

    whole: nothing that is required may be missing.
    """
    if arguments[0].startswith("-") or arguments[0] == "help":
        return "" if arguments[0] in ("--version", "--help", "help") else f"no {arguments[0]}"
    if arguments[0] not in COMMANDS:
        return f"no command {arguments[0]}"
    size = 2 if arguments[0] in GROUPS else 1
    name, rest = " ".join(arguments[:size]), arguments[size:]
    if name in GROUPS and not whole:
        return ""
    if name not in LEAVES:
        return f"no command {name}"
    if "--help" in rest:
        return ""
    try:
        with CliRunner().isolation():
            LEAVES[name].make_context(name, rest)
    except Exit:
        return ""
    except Exception as error:  # typer's own are in a package that has no public name
        missing = type(error).__name__ == "MissingParameter"
        return "" if missing and not whole else f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_every_command_line_is_taken_by_the_command(name: str) -> None:
    calls = [call for line in shell_lines(name) for call in commands_in(line) if call]
    faults = {shlex.join(call): fault_of(call, whole=True) for call in calls}
    assert {call: fault for call, fault in faults.items() if fault} == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_in_the_prose_is_one_that_there_is(name: str) -> None:
    codes = [code for code in inline_code(name) if code.startswith("convserve ")]
    calls = [call for code in codes for call in commands_in(code) if call]
    named = [call for call in calls if not call[0].isupper()]
    faults = {shlex.join(call): fault_of(call, whole=False) for call in named}
    assert {call: fault for call, fault in faults.items() if fault} == {}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("convserve bild recipe.yaml", "no command bild"),
        ("convserve build recipe.yaml --untill data", "NoSuchOption"),
        ("convserve build recipe.yaml --hours soon", "BadParameter"),
        ("convserve loadtest", "no command loadtest"),
        ("X=1 convserve serve --model-repository a --grpc-port 0 2> log &", ""),
        ("convserve loadtest run --model a", "MissingParameter"),
    ],
)
def test_a_wrong_command_is_seen(line: str, fault: str) -> None:
    [call] = commands_in(line)
    assert fault_of(call, whole=True).startswith(fault)
    assert bool(fault_of(call, whole=True)) == bool(fault)
