"""Links and pictures of documents lead somewhere, on GitHub and on the site."""

import itertools
import posixpath
import re

import pytest
import yaml

from scripts.reference import PAGES
from tests.docs.documents import (
    ROOT,
    anchors_of,
    documents,
    links_of,
    name_of,
    prose_of,
)

NAMES = [name_of(path) for path in documents()]
MADE = [f"docs/{path}" for path in PAGES]
ALL = [*NAMES, *MADE]


def fault_of(where: str, target: str) -> str:
    """What is wrong with a link; empty where nothing is."""
    if re.match(r"(https?|mailto):", target):
        return ""
    path, _, anchor = target.partition("#")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(where), path)) if path else where
    if file not in MADE and not (ROOT / file).exists():
        return f"no {file}"
    if anchor and file.endswith(".md") and anchor not in anchors_of(file):
        return f"no #{anchor} in {file}"
    return ""


@pytest.mark.parametrize("name", ALL)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(name: str) -> None:
    faults = {link.target: fault_of(name, link.target) for link in links_of(name)}
    assert {target: fault for target, fault in faults.items() if fault} == {}


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("nowhere.md", "no docs/nowhere.md"),
        ("glossary.md#nothing", "no #nothing in docs/glossary.md"),
        ("reference/errors.md#nothing", "no #nothing in docs/reference/errors.md"),
        ("operations/access.md#limits", ""),
        ("reference/settings.md#max-connections", ""),
    ],
)
def test_a_broken_link_is_seen(target: str, fault: str) -> None:
    assert fault_of("docs/index.md", target) == fault


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_has_words_for_those_who_do_not_see_it(name: str) -> None:
    pictures = [link for link in links_of(name) if link.picture]
    assert [link.target for link in pictures if len(link.text.split()) < 3] == []
    assert "<img" not in prose_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_lists_begin_after_an_empty_line_as_the_site_needs_it(name: str) -> None:
    lines = prose_of(name).splitlines()
    item = re.compile(r"(\d+\.|[-*]) ")
    faults = [
        line
        for before, line in itertools.pairwise(lines)
        if item.match(line) and before.strip() and not re.match(r" *(\d+\.|[-*]) |  ", before)
    ]
    assert faults == [] or name.startswith("docs/index")


def test_alerts_name_a_section_of_the_runbook() -> None:
    rules = yaml.safe_load((ROOT / "helm/convserve/files/rules.yaml").read_text())
    runbooks = [
        rule["annotations"]["runbook"]
        for group in rules["groups"]
        for rule in group["rules"]
        if "runbook" in rule.get("annotations", {})
    ]
    assert len(runbooks) > 10
    assert [link for link in runbooks if fault_of("README.md", link)] == []
