"""Drawings have the same colours alone, as GitHub shows them, and in the site."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.documents import DOCS, documents, links_of, name_of

PICTURES = sorted((DOCS / "images").glob("*.svg"))
DRAWINGS = [path for path in PICTURES if 'class="diagram"' in path.read_text()]
STYLE = (DOCS / "site.css").read_text()


def colours(css: str) -> list[tuple[str, str]]:
    """Variables of the colours of drawings in their order: the light ones, then the dark ones."""
    names = "ink|muted|line|panel|accent|soft|bad|bad-soft|good|good-soft"
    return re.findall(rf"(--(?:{names})): ?(#[0-9a-f]+)", css)


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_has_the_colours_and_classes_of_the_site(drawing: Path) -> None:
    text = drawing.read_text()
    assert colours(text) == colours(STYLE)
    assert len(colours(text)) == 20
    used = {name for names in re.findall(r'class="([^"]+)"', text) for name in names.split()}
    assert {name for name in used - {"diagram"} if f".{name} {{" not in STYLE} == set()


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_is_shown_by_a_page_and_loads_nothing(drawing: Path) -> None:
    shown = {
        (path.parent / link.target).resolve()
        for path in documents()
        for link in links_of(name_of(path))
        if link.picture
    }
    assert drawing.resolve() in shown
    root = ElementTree.parse(drawing).getroot()
    assert [node.tag for node in root.iter() if node.tag.endswith(("image", "script", "use"))] == []
