"""Loading and unloading in the console, in a real browser: offered to those alone who may."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from tests.support.process import ServerProcess

RIGHTS = "**/v2/repository/rights"
Start = Callable[..., ServerProcess]


def opened(page: Page, server: ServerProcess, name: str = "points") -> None:
    """The models page, with the row of a model open."""
    page.goto(f"{server.http}/#/models")
    page.locator(".toggle", has_text=name).click()


def test_a_model_is_unloaded_after_a_question_and_loaded_again(
    page: Page, colours: Path, start_server: Start
) -> None:
    server = start_server(colours, "--model-control", "explicit", "--admin-open", "repository")
    opened(page, server)
    row = page.locator("tbody", has_text="points")
    row.get_by_role("button", name="Load points").click()
    expect(row.locator(".state").first).to_have_text("Ready", timeout=60_000)
    expect(row.locator(".toggle")).to_be_focused()  # its button is of a version that is gone
    assert server.get(f"{server.http}/v2/models/points/ready")[0] == 200
    row.get_by_role("button", name="Unload points").click()
    dialog = page.get_by_role("dialog", name="Unload points?")
    expect(dialog.get_by_role("button", name="Keep it")).to_be_focused()
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(row.get_by_role("button", name="Unload points")).to_be_focused()
    assert server.get(f"{server.http}/v2/models/points/ready")[0] == 200
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(row.locator(".state").first).not_to_have_text("Ready")
    expect(row.get_by_role("status")).to_have_text("Unloaded.")
    expect(row.get_by_role("button", name="Unload points")).to_have_count(0)
    assert server.get(f"{server.http}/v2/models/points/ready")[0] == 400


def test_nothing_is_offered_where_nobody_may(page: Page, server: ServerProcess) -> None:
    """The server takes admin calls by a token alone, and loads nothing by call."""
    with page.expect_response(RIGHTS) as answer:
        opened(page, server)
    assert answer.value.json() == {"load": []}
    expect(page.get_by_role("link", name="Batches").last).to_be_visible()
    assert page.get_by_role("button", name="Unload").count() == 0


@pytest.mark.parametrize("status", [403, 404, 500])
def test_nothing_is_offered_where_the_server_does_not_say(
    status: int, page: Page, server: ServerProcess
) -> None:
    page.route(RIGHTS, lambda route: route.fulfill(status=status, body='{"error": "no"}'))
    with page.expect_response(RIGHTS):
        opened(page, server)
    expect(page.get_by_role("link", name="Batches").last).to_be_visible()
    assert page.get_by_role("button", name="Unload").count() == 0


def test_a_refusal_is_shown_where_the_button_is(page: Page, server: ServerProcess) -> None:
    """His right was taken back since the page asked."""
    page.route(RIGHTS, lambda route: route.fulfill(body=json.dumps({"load": ["points"]})))
    opened(page, server)
    page.get_by_role("button", name="Load again points").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Not allowed")
    expect(alert).to_contain_text("admin call refused")
    expect(page.get_by_role("button", name="Load again points")).to_be_enabled()


def test_a_name_with_a_path_in_it_reaches_its_own_model_alone(
    page: Page, server: ServerProcess
) -> None:
    asked: list[str] = []

    def took(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=200)

    name = "../x?y#z%2e"
    model = {"name": name, "version": "", "state": "UNAVAILABLE", "reason": ""}
    page.route(
        "**/vision/v1/models", lambda route: route.fulfill(body=json.dumps({"models": [model]}))
    )
    page.route(RIGHTS, lambda route: route.fulfill(body=json.dumps({"load": [name]})))
    page.route("**/v2/repository/models/**", took)
    opened(page, server, name)
    page.get_by_role("button", name=f"Load {name}").click()
    expect(page.get_by_role("status").filter(has_text="Loaded.")).to_be_visible()
    assert asked == [f"{server.http}/v2/repository/models/..%2Fx%3Fy%23z%252e/load"]
