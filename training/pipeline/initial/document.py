"""A recipe under construction: values with the reason of each, and the YAML of it."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

_WIDTH = 88


@dataclass(frozen=True)
class Said:
    """The value of a key, and the comment that explains it; empty where the key says it all."""

    value: Any
    why: str = ""


Section = Mapping[str, "Said | Section"]
"""Keys in their order; a section may have a comment as Said of a Section."""


def plain(section: Section) -> dict[str, Any]:
    """The values alone, as parse_recipe takes them."""
    return {key: _plain(entry) for key, entry in section.items()}


def _plain(entry: Any) -> Any:
    value = entry.value if isinstance(entry, Said) else entry
    return plain(value) if isinstance(value, Mapping) and _is_section(value) else value


def _is_section(value: Mapping[str, Any]) -> bool:
    return any(isinstance(inner, Said | Mapping) for inner in value.values())


def as_yaml(heading: str, section: Section) -> str:
    """The recipe as a file, every comment above its key."""
    lines = _comment(heading, 0)
    for key, entry in section.items():
        if lines and (_below(entry) is not None or _comment_of(entry)):
            lines.append("")
        lines += _entry(key, entry, 0)
    return "\n".join(lines) + "\n"


def _entry(key: str, entry: Any, depth: int) -> list[str]:
    lines = _comment(_comment_of(entry), depth)
    below = _below(entry)
    if below is None:
        value = entry.value if isinstance(entry, Said) else entry
        return [*lines, "  " * depth + f"{key}: {_flow(value)}"]
    lines.append("  " * depth + f"{key}:")
    for name, inner in below.items():
        lines += _entry(name, inner, depth + 1)
    return lines


def _comment_of(entry: Any) -> str:
    return entry.why if isinstance(entry, Said) else ""


def _below(entry: Any) -> Section | None:
    value = entry.value if isinstance(entry, Said) else entry
    return value if isinstance(value, Mapping) and _is_section(value) else None


def _comment(text: str, depth: int) -> list[str]:
    # Names of files and classes are those of a data set: none may end the comment.
    words = "".join(c if c.isprintable() else " " for c in text)
    indent = "  " * depth
    return [f"{indent}# {line}" for line in textwrap.wrap(words, _WIDTH - len(indent))]


def _flow(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
