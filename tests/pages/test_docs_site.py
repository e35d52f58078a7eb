"""The documents as a site: built strictly, legible everywhere, without a request to others."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.pages.conftest import NARROW, WIDE, faults_of

ROOT = Path(__file__).parents[2]
PAGES = [
    "", "explanation/batching/", "benchmarks/speed/", "reference/settings/", "reference/recipe/",
    "protocol/",
]  # fmt: skip
Scheme = Literal["light", "dark"]


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Says nothing."""


class Resources(HTMLParser):
    """What a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [given[key] or "" for key in ("src", "srcset", "poster") if key in given]
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.found.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it: a warning fails."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site, served on this machine."""
    handler = functools.partial(Silent, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_no_page_names_a_resource_of_another_host(site: Path) -> None:
    pages = [path for path in site.rglob("*.html") if path.is_file()]
    assert len(pages) > 60
    outside = {}
    for page in pages:
        resources = Resources()
        resources.feed(page.read_text())
        outside[str(page)] = [one for one in resources.found if re.match(r"(https?:)?//", one)]
    assert {name: found for name, found in outside.items() if found} == {}
    for style in site.rglob("*.css"):
        assert re.findall(r"url\(\s*['\"]?(?:https?:)?//|@import", style.read_text()) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
def test_pages_fit_and_ask_nobody_else(
    browser: Browser, address: str, scheme: Scheme, narrow: bool
) -> None:
    context = browser.new_context(viewport=NARROW if narrow else WIDE, color_scheme=scheme)
    page = context.new_page()
    faults = faults_of(page)
    for path in PAGES:
        page.goto(address + path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= (NARROW if narrow else WIDE)["width"], path
    context.close()
    assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, address: str, scheme: Scheme) -> None:
    context = browser.new_context(viewport=WIDE, color_scheme=scheme)
    page = context.new_page()
    found = {}
    for path in PAGES:
        page.goto(address + path)
        violations = Axe().run(page).response["violations"]
        serious = [one for one in violations if one["impact"] in ("serious", "critical")]
        found[path] = [(one["id"], one["nodes"][0]["html"][:200]) for one in serious]
    context.close()
    assert {path: faults for path, faults in found.items() if faults} == {}


def test_a_setting_is_found_by_its_name(page: Page, address: str) -> None:
    page.goto(address)
    page.locator(".md-search__input").first.click()
    page.keyboard.type("max-connections")
    page.locator("a[href*='reference/settings/'][href$='#max-connections']").first.wait_for()


def test_drawings_have_the_colours_that_the_reader_chose(browser: Browser, address: str) -> None:
    inks = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address + "explanation/batching/")
        drawing = page.locator("svg.diagram").first
        assert "admission" in (drawing.get_attribute("aria-label") or "")
        inks[scheme] = drawing.evaluate("e => getComputedStyle(e.querySelector('text')).fill")
        page.close()
    assert inks["light"] != inks["dark"]
