"""The console's page of recent batches in a real browser: what ran, and what limited it."""

import json
import urllib.request
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from serving.batching.batch import LIMITS
from tests.pages.conftest import NARROW, WIDE, faults_of
from tests.support.process import ServerProcess

BATCHES = "**/debug/batches"
HOSTILE = "<img src=x onerror=alert(1)>/1"


def infer(server: ServerProcess, rows: int) -> None:
    data = {"name": "image", "shape": [rows, 8, 8, 3], "datatype": "UINT8"}
    body = json.dumps({"inputs": [data | {"data": [0] * (rows * 192)}]}).encode()
    url = f"{server.http}/v2/models/regions/infer"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as answer:
        assert answer.status == 200


def batch(number: int, limited_by: str = "empty", **changes: Any) -> dict[str, Any]:
    """One of 10 ms that begins each second."""
    return {
        "started": 100.0 + number, "at": 1.7e9 + number, "rows": 4, "calls": 2, "left_waiting": 0,
        "limit": 8, "limited_by": limited_by, "longest_wait": 0.002, "cores_wait": 0.0,
        "predicted": 0.011, "took": 0.01, "infer": 0.009, "failed": False, "engine": "openvino",
        "variant": "int8-s8",
    } | changes  # fmt: skip


def faked(page: Page, found: dict[str, list[dict[str, Any]]], status: int = 200) -> None:
    body = json.dumps(found if status == 200 else {"error": "so it is"})
    page.route(BATCHES, lambda route: route.fulfill(status=status, body=body))


def visit(page: Page, server: ServerProcess, model: str = "") -> None:
    page.goto(f"{server.http}/#/batches{f'?model={model}' if model else ''}")


def test_batches_that_ran_are_shown_with_their_rows_and_their_limit(
    page: Page, server: ServerProcess
) -> None:
    for rows in (1, 8, 3):
        infer(server, rows)
    visit(page, server)
    page.get_by_role("button", name="regions/1").click()
    rows = page.locator("tbody tr")
    for number, (size, limit) in enumerate(
        (("3", "no call waited"), ("8", "full"), ("1", "no call waited"))
    ):
        cells = rows.nth(number).locator("td")
        expect(cells.nth(0)).to_have_text(size)
        expect(cells.nth(1)).to_have_text("1")
        expect(cells.nth(3)).to_have_text(limit)
    expect(page.locator(".sentence")).to_contain_text("took all calls that waited")
    expect(page.locator(".figures")).to_contain_text("fp32")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("=regions/1")


def test_all_models_stand_beside_one_another_and_what_has_no_batch_is_counted(
    page: Page, server: ServerProcess
) -> None:
    three = [*[batch(number) for number in range(3)], batch(3, "full")]
    faked(page, {"a/1": three, HOSTILE: [batch(9, "deadline")], "idle/1": []})
    visit(page, server)
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text(HOSTILE)  # it ran last
    expect(rows.nth(1)).to_contain_text("no call waited 75 %, full 25 %")
    expect(rows.nth(1)).to_contain_text("4 in 3.0 s")
    expect(page.locator("main")).to_contain_text("1 more served without a batch so far")
    assert page.locator("main img").count() == 0
    page.keyboard.press("Tab")
    rows.nth(0).get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".sentence")).to_contain_text("deadlines, or slo_ms, are the limit")


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([batch(n) for n in range(9)],
         "Of the last 9 batches (8.0 s), 100 % took all calls that waited, and a batch ran 1 % of "
         "the time: the server is not the limit."),
        ([batch(n, took=1.0) for n in range(9)], "it is busy, and its callers wait for it"),
        ([batch(n, "full", took=1.0) for n in range(9)], "the engine is the limit"),
        ([batch(n, "full") for n in range(9)], "calls come in bursts"),
        ([batch(n, "window") for n in range(9)], "the server waits for calls"),
        ([batch(n, "size") for n in range(9)], "had the size that does best"),
        ([batch(n, "next_call") for n in range(9)], "calls of many rows fit badly"),
        ([batch(n, "shape") for n in range(9)], "only equal shapes share a batch"),
        ([batch(n, cores_wait=0.1) for n in range(9)], "the cores are the limit"),
        ([batch(n, word) for n, word in enumerate(LIMITS)], "no limit stands out: 14 % had"),
        ([batch(n, "<b>new</b>") for n in range(9)], "were limited by <b>new</b>"),
    ],
    ids=[
        "empty", "busy", "full", "bursts", "window", "size", "next", "shape", "cores", "mixed",
        "unknown",
    ],
)  # fmt: skip
def test_one_sentence_says_what_limits_the_batches(
    batches: list[dict[str, Any]], said: str, page: Page, server: ServerProcess
) -> None:
    faked(page, {"a/1": batches})
    visit(page, server, "a/1")
    expect(page.locator(".sentence")).to_contain_text(said)


def test_the_page_has_a_word_for_each_limit_of_the_batcher(
    page: Page, server: ServerProcess
) -> None:
    page.goto(server.http)
    words = page.evaluate("async () => Object.keys((await import('/console/batches.js')).LIMITS)")
    assert words == list(LIMITS)


def test_the_keyboard_reads_every_batch(page: Page, server: ServerProcess) -> None:
    faked(page, {"a/1": [batch(0, rows=1), batch(1, rows=2), batch(2, rows=3, failed=True)]})
    visit(page, server, "a/1")
    slider = page.get_by_role("slider", name="Batch, by its start")
    slider.focus()
    said = []
    for key in ("End", "ArrowLeft", "Home", "ArrowLeft", "PageUp"):
        page.keyboard.press(key)
        said.append((slider.get_attribute("aria-valuetext") or "").split(", ")[1])
    assert said == ["rows 3 of 2 calls", "rows 2 of 2 calls", *["rows 1 of 2 calls"] * 2, said[0]]
    expect(page.locator(".tip")).to_contain_text("failed")
    page.keyboard.press("Escape")
    expect(page.locator(".tip")).to_be_hidden()
    expect(page.locator("tbody tr").first).to_contain_text("failed")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refusals_are_shown(status: int, page: Page, server: ServerProcess) -> None:
    faked(page, {}, status)
    visit(page, server)
    expect(page.get_by_role("alert")).to_contain_text("so it is")
    faked(page, {"a/1": [batch(0)]})
    if status == 500:
        expect(page.get_by_role("alert")).to_have_count(0)  # it tries again by itself
    else:
        page.get_by_role("button", name="Try again").click()
    expect(page.locator("tbody tr")).to_have_count(1)


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_nothing_serious_is_in_the_way_of_anybody(
    size: Any, scheme: Any, browser: Browser, server: ServerProcess
) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    faults = faults_of(page)
    limits = [batch(n, word) for n, word in enumerate(LIMITS)]
    faked(page, {"a/1": limits, "b/2": [batch(0)]})
    for model in ("", "a/1"):
        visit(page, server, model)
        expect(page.locator("tbody tr").first).to_be_visible()
        found = Axe().run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults == []
    context.close()
