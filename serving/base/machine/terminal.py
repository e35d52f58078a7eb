"""How a command talks: results on standard output, all else on standard error, and less of that
with --quiet."""

import json
import math
import os
import shlex
import sys
from collections.abc import Iterable
from typing import Any

from serving.base.text import escaped

_quiet = False


def be_quiet(on: bool) -> None:
    """Whether this process leaves out progress, notes and the next step from now on."""
    global _quiet
    _quiet = on


def is_quiet() -> bool:
    """Whether --quiet was given."""
    return _quiet


def speaks() -> bool:
    """Whether this process tells how far it is: with --quiet none does, and of those of torchrun
    the first."""
    later = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"
    return not (_quiet or later)


def next_step(*words: object) -> None:
    """Tells the command that comes next, by its words. On standard error: it is no result."""
    if speaks():
        command = shlex.join(["convserve", *map(str, words)])
        print(f"Next: {escaped(command)}", file=sys.stderr)  # noqa: T201


def records(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table as a block of lines a row, each with a column's name and its value: for terminals in
    which the columns do not fit beside each other. Empty values are left out."""
    names = list(columns)
    blocks = [
        "\n".join(f"{name}: {value}" for name, value in zip(names, row, strict=True) if value)
        for row in rows
    ]
    return "\n\n".join(blocks)


def json_text(document: Any) -> str:
    """A document as JSON for standard output; what a terminal would obey is escaped in it, and so
    is what its encoding lacks. Numbers that are not finite, which JSON lacks too, are null."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    ascii_alone = not encoding.lower().replace("-", "").startswith("utf")
    text = json.dumps(_finite(document), indent=2, ensure_ascii=ascii_alone)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
