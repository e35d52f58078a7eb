"""The fixtures themselves: a page that asks others for something fails its test."""

import pytest
from playwright.sync_api import Browser, Page

from tests.pages.conftest import faults_of


def test_a_page_of_ours_shows(page: Page) -> None:
    page.set_content("<title>ours</title><h1>Here</h1>")
    assert page.title() == "ours"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('<img src="http://elsewhere.invalid/a.png">', "asked for http://elsewhere.invalid/a.png"),
        ("<script>throw new Error('boom')</script>", "a script failed: boom"),
    ],
    ids=["asks another host", "fails in a script"],
)
def test_faults_are_seen(browser: Browser, content: str, fault: str) -> None:
    page = browser.new_page()
    faults = faults_of(page)
    page.set_content(content)
    page.close()
    assert faults == [fault]
