"""Markdown, and the docstrings that it is made of."""

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence

# "name: text" or "one, another: text" at the left edge of a docstring.
_ENTRY = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (.*)")
_CODE = re.compile(r"(`[^`]*`)")
_PROSE = re.compile(r"[a-z][a-z'-]*(?=[ ,;]|\.?$)")


class Undocumented(Exception):
    """A name that the code does not explain; the text says which, and where to explain it."""


def parts(docstring: str | None) -> tuple[str, dict[str, str]]:
    """The prose of a docstring, as paragraphs, and the texts of its entries by name. An entry that
    several names share is the text of each. Lines of code in the prose keep their indentation."""
    paragraphs: list[list[str]] = [[]]
    entries: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(docstring or "").splitlines():
        found = _ENTRY.fullmatch(line)
        if found:
            names = found[1].split(", ")
            entries |= dict.fromkeys(names, found[2])
        elif line.startswith("    ") and names:
            for name in names:
                entries[name] += " " + line.strip()
        else:
            names = []
            if line:
                paragraphs[-1].append(line)
            elif paragraphs[-1]:
                paragraphs.append([])
    joined = (
        ("\n" if lines[0].startswith("    ") else " ").join(lines) for lines in paragraphs if lines
    )
    return "\n\n".join(joined), entries


def plain(text: str) -> str:
    """Text of a docstring as Markdown: signs that Markdown or HTML would take for their own are
    escaped, but for those between backticks."""
    pieces = _CODE.split(" ".join(text.split()))
    return "".join(
        piece if index % 2 else re.sub(r"([*<\[])", r"\\\1", piece)
        for index, piece in enumerate(pieces)
    )


def code(value: object) -> str:
    """A value in the type of code."""
    return f"`{value}`"


def sentence(text: str) -> str:
    """A text that ends with a full stop, and begins with a capital letter where it begins with a
    word of prose: not with a value or a name (`none: ...`, `config.pbtxt`). Code stays code."""
    if text.startswith("    "):
        return f"```python\n{textwrap.dedent(text)}\n```"
    text = plain(text)
    if _PROSE.match(text):
        text = text[0].upper() + text[1:]
    return text if not text or text[-1] in ".:?" else text + "."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; pipes in its cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def join(blocks: Iterable[str]) -> str:
    """Blocks of Markdown as one page."""
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"
