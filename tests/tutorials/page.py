"""A page of docs/tutorials as the steps that its reader takes.

Everything in a fence is taken: `bash` blocks are typed in their order, a block with a title is
saved as the file of that name, a `text` block is what the commands before it print. Anything else
is an error, so that no block stands on a page without being run. `<!-- fails -->` before a block
says that its last command fails, which the page is about.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
PAGES = sorted(file.stem for file in FOLDER.glob("*.md") if file.stem != "index")
_FENCE = re.compile(r"^```(\S*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Where a page goes on: the folder of the page that this line links to.
_BEFORE = re.compile(r"^\*\*Before:\*\* .*?\]\(([\w-]+)\.md\)", re.MULTILINE)
_FAILS = "<!-- fails -->\n"
# What differs between machines: numbers, and the variant that is fastest there in which engine.
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_CHOICE = re.compile(r"\b(?:fp32|fp16|bf16|int8-s8|int8-u8-rr|int8-u8|onnxruntime|openvino)\b")
_VARIES = re.compile(f"({_CHOICE.pattern})|({_NUMBER.pattern})")
_GAP = "..."


class PageError(Exception):
    """A page that cannot be run as it stands."""


@dataclass(frozen=True)
class Save:
    """A file that the reader writes."""

    line: int
    name: str
    text: str


@dataclass(frozen=True)
class Type:
    """Commands, and the lines that they print among others; fails: of the last command."""

    line: int
    commands: str
    prints: tuple[str, ...] = ()
    fails: bool = False


Step = Save | Type


def steps(text: str) -> list[Step]:
    """The steps of a page. Raises PageError."""
    found: list[Step] = []
    for line, language, title, body, fails in _blocks(text):
        if title:
            found.append(Save(line, title, body))
        elif language == "bash":
            found.append(Type(line, body, fails=fails))
        elif language == "text":
            if not found or not isinstance(found[-1], Type) or found[-1].prints:
                raise PageError(f"line {line}: output that no commands stand before")
            found[-1] = Type(
                found[-1].line, found[-1].commands, tuple(body.splitlines()), found[-1].fails
            )
        else:
            raise PageError(f"line {line}: a block of {language or 'no language'} that is not run")
    return found


def _blocks(text: str) -> Iterator[tuple[int, str, str, str, bool]]:
    """Line, language, title and text of each fenced block, and whether it fails."""
    end = 0
    for match in _FENCE.finditer(text):
        _check_prose(text[end : match.start()], text.count("\n", 0, end) + 1)
        line = text.count("\n", 0, match.start()) + 1
        fails = text[: match.start()].endswith(_FAILS)
        yield line, match[1], match[2] or "", match[3], fails
        end = match.end()
    _check_prose(text[end:], text.count("\n", 0, end) + 1)


def _check_prose(text: str, first: int) -> None:
    """Raises PageError for code that is in no fence that can be read."""
    for number, line in enumerate(text.splitlines(), first):
        if line.lstrip().startswith(("```", "~~~")) or line.startswith(("    ", "\t")):
            raise PageError(f"line {number}: code outside of a fenced block: {line[:60]!r}")


def before(text: str) -> str | None:
    """The page in whose folder this one goes on."""
    match = _BEFORE.search(text)
    return match[1] if match else None


def missing_line(expected: tuple[str, ...], printed: str) -> str | None:
    """The first expected line that is not printed, in the order of the page; None if all are.

    Numbers stand for any number, variants and engines for any of them, white space for any, `...`
    for any text; lines that the page leaves out may come between.
    """
    lines = iter(printed.splitlines())
    for wanted in expected:
        if wanted.strip() in ("", _GAP):
            continue
        pattern = _pattern(wanted)
        if not any(pattern.search(line) for line in lines):
            return wanted
    return None


def _pattern(line: str) -> re.Pattern[str]:
    parts = []
    for word in line.split():
        pieces = re.split(r"(\.\.\.)", word)
        parts.append("".join(".*" if piece == _GAP else _loosely(piece) for piece in pieces))
    return re.compile(r"\s*".join(parts) if _is_table(line) else r"\s+".join(parts))


def _is_table(line: str) -> bool:
    """Whether columns stand in it, which wide numbers may join."""
    return "  " in line.strip()


def _loosely(text: str) -> str:
    pattern, end = "", 0
    for match in _VARIES.finditer(text):
        pattern += re.escape(text[end : match.start()])
        pattern += _CHOICE.pattern if match[1] else r"-?\d[\d,]*(?:\.\d+)?"
        end = match.end()
    return pattern + re.escape(text[end:])
