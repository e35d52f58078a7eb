"""The console asks its reader for a key once, and keeps it only as long as the reader says."""

import pytest
from playwright.sync_api import Page, Route, expect

from tests.pages.console import MODELS, answers, model, visit
from tests.support.process import ServerProcess


@pytest.mark.parametrize("keep", [False, True])
def test_key_is_asked_for_once_and_kept_as_the_reader_says(
    page: Page, server: ServerProcess, keep: bool
) -> None:
    asked: list[str] = []

    def guarded(route: Route) -> None:
        asked.append(route.request.url)
        if route.request.headers.get("x-api-key") == "right":
            route.fulfill(json={"models": [model("mine")]})
        else:
            route.fulfill(status=401, json={"error": "expected 'x-api-key: KEY'"})

    page.route(MODELS, guarded)
    visit(page, server, "models")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("expected 'x-api-key: KEY'")
    for key in ("wrong", "right"):
        page.get_by_label("Key or token").fill(key)
        page.get_by_label("Keep it until").set_checked(keep)
        page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="mine")).to_be_visible()
    expect(page.get_by_role("button", name="API key in use")).to_be_visible()
    stored = page.evaluate("() => JSON.stringify({ ...sessionStorage, ...localStorage })")
    assert ("right" in stored) == keep
    assert not any("right" in url for url in [page.url, *asked])
    page.get_by_role("button", name="API key in use").click()
    page.get_by_role("button", name="Forget").click()
    expect(page.get_by_role("dialog")).to_contain_text("expected 'x-api-key: KEY'")
    assert page.evaluate("() => sessionStorage.length") == 0


def test_reader_who_gives_no_key_is_not_asked_again(page: Page, server: ServerProcess) -> None:
    answers(page, MODELS, {"error": "who calls?"}, 401)
    page.clock.install()
    visit(page, server, "models")
    page.get_by_role("button", name="Cancel").click()
    page.clock.run_for(12_000)  # two looks, and less than an answer may take
    expect(page.get_by_role("alert")).to_contain_text("who calls?")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_text("The server has no models")).to_be_hidden()  # it did not say so
