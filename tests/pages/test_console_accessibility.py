"""The console is for everybody: by keyboard alone, wide and narrow, light and dark, with no serious
finding of axe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.pages.conftest import NARROW, WIDE, faults_of
from tests.pages.console import file, show, visit
from tests.support.process import ServerProcess


def test_everything_is_reached_by_keyboard_alone(page: Page, server: ServerProcess) -> None:
    page.on("filechooser", lambda chooser: chooser.set_files(file()))
    visit(page, server, "models")
    expect(page.get_by_role("button", name="colours")).to_be_visible()

    def tab_to(reached: Callable[[str], bool]) -> None:
        words = "() => [document.activeElement.textContent, document.activeElement.id].join(' ')"
        for _ in range(60):
            page.keyboard.press("Tab")
            if reached(page.evaluate(words)):
                return
        pytest.fail("it was not reached")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    tab_to(lambda words: words.startswith("colours"))
    page.keyboard.press("Enter")
    tab_to(lambda words: words.startswith("Try an image"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Try an image")).to_be_visible()
    tab_to(lambda words: words.endswith("picture"))
    page.keyboard.press("Enter")
    expect(page.locator(".bars .name")).to_have_text(["red", "green", "blue"])


@pytest.mark.parametrize("view", ["wide light", "narrow dark"])
def test_nothing_stands_in_anybodys_way(
    browser: Browser, server: ServerProcess, view: str, tmp_path: Path
) -> None:
    size = WIDE if "wide" in view else NARROW
    scheme: Any = view.split()[1]
    page = browser.new_page(viewport=size, color_scheme=scheme)
    faults = faults_of(page)

    def check(ready: str) -> None:
        expect(page.locator(ready).first).to_be_visible()
        found = Axe().run(page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in serious] == [], ready
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), ready

    visit(page, server, "models")
    page.get_by_role("button", name="colours").click()
    check(".details")
    show(page, server, "try?model=colours")
    check(".bars")
    for place, ready in (
        ("try?model=regions", ".masked"),
        ("try?model=points", ".result .stages"),
        ("compare?model=colours", ".gaps"),
        ("compare?model=regions", ".areas-compared"),
    ):
        visit(page, server, place)
        check(ready)
    page.get_by_role("button", name="Credentials").click()
    check("dialog")
    page.close()
    assert not faults
