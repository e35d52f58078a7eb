"""The documents of the checkout, as tests read them."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scripts.reference import PAGES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^( *)(```+)([^\n]*)\n(.*?)^ *\2`*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+?)(?: \{ #([\w-]+) \})?$", re.MULTILINE)
_SHELLS = ("", "sh", "bash", "console")


class Link(NamedTuple):
    """A link or picture: where it stands, its text and target."""

    where: str
    picture: bool
    text: str
    target: str


def documents() -> list[Path]:
    """Every document that people read, but for those that are made from code."""
    named = [
        ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
    ]
    examples = (
        path for path in (ROOT / "examples").rglob("*.md") if "node_modules" not in path.parts
    )
    return [*named, ROOT / "model_repo/README.md", *sorted(DOCS.rglob("*.md")), *sorted(examples)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def text_of(name: str) -> str:
    """The Markdown of a document by its path below the checkout, made from code where it is."""
    page = PAGES.get(name.removeprefix("docs/"))
    return page() if page else (ROOT / name).read_text()


def prose_of(name: str) -> str:
    """A document without its blocks of code."""
    return _FENCE.sub("", text_of(name))


def links_of(name: str) -> list[Link]:
    return [
        Link(name, bool(match[1]), match[2], match[3]) for match in _LINK.finditer(prose_of(name))
    ]


@cache
def anchors_of(name: str) -> frozenset[str]:
    """Anchors of a document, as GitHub and the site make them of its headings."""
    found: set[str] = set()
    for match in _HEADING.finditer(prose_of(name)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
        slug = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
        found.add(match[2] or slug)
    return frozenset(found)


def shell_lines(name: str) -> Iterator[str]:
    """Lines of a document's blocks of shell commands, those that end in a backslash joined."""
    text = text_of(name)
    for match in _FENCE.finditer(text):
        if match[3].split(" ")[0].strip() in _SHELLS:
            yield from re.sub(r"\\\n\s*", "", match[4]).splitlines()
    for line in _FENCE.sub("", text).splitlines():
        if line.startswith("    "):
            yield line.strip()


def inline_code(name: str) -> list[str]:
    """Code between backticks in a document's prose."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose_of(name))]
