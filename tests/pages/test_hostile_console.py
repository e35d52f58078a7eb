"""The console before what strangers, large models, refusals and bad networks do to it."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.pages.console import HOSTILE, MODELS, answers, file, model, show, visit
from tests.support.process import ServerProcess

SMALL = {"width": 320, "height": 640}
LONG = "n" * 256
PLACES = {
    "models": ".details",
    "try?model=colours": ".bars",
    "try?model=regions": ".masked",
    "try?model=points": ".gallery",
    "compare?model=colours": ".gaps",
    "compare?model=regions": ".areas-compared",
    "live": "figure",
    "batches": "main h1",
}


@pytest.mark.parametrize("place", PLACES)
def test_page_fits_320_pixels(page: Page, server: ServerProcess, place: str) -> None:
    page.set_viewport_size(SMALL)  # type: ignore[arg-type]
    if "?" in place:
        show(page, server, place)
    else:
        visit(page, server, place)
    if place == "models":
        page.get_by_role("button", name="colours").click()
    expect(page.locator(PLACES[place]).first).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") == SMALL["width"]
    cut = page.evaluate("""() => [...document.querySelectorAll("main *")].filter(one =>
        one.getBoundingClientRect().right > innerWidth + 1
        && !one.closest(".table:not(.models), .inner, .areas, svg, .visually-hidden"))
        .map(one => one.outerHTML.slice(0, 120))""")
    assert cut == []


def test_names_of_256_characters_and_long_reasons_fit(page: Page, server: ServerProcess) -> None:
    page.set_viewport_size(SMALL)  # type: ignore[arg-type]
    reason = "it could not be loaded: " + "because of this " * 2000
    broken = {"name": HOSTILE, "version": "2", "state": "UNAVAILABLE", "reason": reason}
    answers(page, MODELS, {"models": [model(LONG, classes=10_000), broken]})
    visit(page, server, "models")
    page.get_by_role("button", name=LONG).click()
    expect(page.get_by_text("10000")).to_be_visible()
    told = page.locator(".reason")
    expect(told).to_contain_text("because of this")
    assert len(told.inner_text()) < 1100
    assert page.evaluate("() => document.documentElement.scrollWidth") == SMALL["width"]


def test_texts_of_others_stay_texts_and_short(page: Page, server: ServerProcess) -> None:
    long = "x" * 10_000
    wild = model(HOSTILE, reason=long, engine=HOSTILE, dataset=long, rejected=[HOSTILE, long])
    answers(page, MODELS, {"models": [wild]})
    labels = [{"index": i, "name": f"{HOSTILE}{i}{long}", "score": 1 / (i + 1)} for i in range(100)]
    timing = {"decode_us": 1, "queue_us": 2, "infer_us": 3, "postprocess_us": 0, "batch_size": 1}
    answer = {"model": HOSTILE, "version": "1", "variant": long, "timing": timing, "labels": labels}
    answers(page, "**/classify*", answer)
    visit(page, server, "models")
    page.get_by_role("button", name=HOSTILE).click()
    show(page, server, "try")
    expect(page.locator(".bars .name")).to_have_count(100)
    visit(page, server, "compare")
    expect(page.locator(".gaps")).to_be_visible()
    assert page.locator("main img").count() == 0
    assert "broken" not in page.title()
    assert page.evaluate("() => document.body.scrollWidth <= innerWidth")


@pytest.mark.parametrize("place", ["models", "try", "compare", "live", "batches"])
def test_server_without_models_says_so(page: Page, server: ServerProcess, place: str) -> None:
    answers(page, MODELS, {"models": []})
    answers(page, "**/debug/batches*", {"models": []})
    visit(page, server, place)
    words = {"models": "No models", "live": "no calls so far", "batches": "No batch has run yet"}
    expect(page.get_by_text(words.get(place, "No model that answers images")).first).to_be_visible()
    expect(page.get_by_text("Asking the server")).to_have_count(0)
    if place in ("try", "compare"):
        page.unroute_all()
        page.get_by_role("button", name="Look again").click()
        page.set_input_files("#picture", file())
        expect(page.locator(".bars").first).to_be_visible()


def test_mask_of_10_000_classes_lists_the_largest(page: Page, server: ServerProcess) -> None:
    def many(route: Route) -> None:
        areas = [
            {"index": n, "name": f"class {n}", "fraction": 1e-4, "confidence": 0}
            for n in range(10_000)
        ]
        route.fulfill(json=route.fetch().json() | {"areas": areas})

    page.route("**/segment*", many)
    show(page, server, "try?model=regions")
    legend = page.get_by_role("region", name="Classes in the mask")
    expect(legend).to_contain_text("10000 classes")
    expect(legend).to_contain_text("9700 smaller ones are not listed")
    expect(legend.get_by_role("checkbox")).to_have_count(300)
    visit(page, server, "compare?model=regions")
    expect(page.get_by_text("9700 smaller ones are not listed")).to_be_visible()


def test_page_waits_visibly_and_the_next_picture_replaces_the_call(
    page: Page, server: ServerProcess
) -> None:
    waiting: list[Route] = []
    page.route("**/classify*", lambda route: waiting.append(route))
    show(page, server, "try?model=colours")
    said = """() => {
        const style = getComputedStyle(document.querySelector(".result"), "::before");
        return style.visibility === "visible" && style.content.includes("Waiting");
    }"""
    page.wait_for_function(said)
    page.unroute_all()
    page.set_input_files("#picture", file())
    expect(page.locator(".bars")).to_be_visible()
    assert not page.evaluate(said)
    assert len(waiting) == 1


@pytest.mark.parametrize(
    ("status", "title"),
    [(403, "Not allowed"), (429, "The server is full"), (503, "Not ready"), (500, "failed")],
)
def test_refusal_is_shown_with_the_servers_words_and_tried_again(
    page: Page, server: ServerProcess, status: int, title: str
) -> None:
    visit(page, server, "try?model=colours")
    answers(page, "**/classify*", {"error": "because <b>so</b>"}, status, **{"Retry-After": "7"})
    page.set_input_files("#picture", file())
    told = page.get_by_role("alert")
    for text in (title, "because <b>so</b>", "wait 7 s"):
        expect(told).to_contain_text(text)
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".bars")).to_be_visible()


@pytest.mark.parametrize("body", ["<h1>A proxy's page</h1>", '{"models": 7}', "", "nul\x00"])
def test_answer_that_is_none_of_ours_is_told_and_breaks_nothing(
    page: Page, server: ServerProcess, body: str
) -> None:
    answers(page, MODELS, body)
    visit(page, server, "models")
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("button", name="colours")).to_be_visible()


def test_server_that_is_gone_is_told(page: Page, server: ServerProcess) -> None:
    page.route(MODELS, lambda route: route.abort("connectionrefused"))
    visit(page, server, "models")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")


def test_server_that_hangs_is_told(page: Page, server: ServerProcess) -> None:
    # Playwright's clock does not move the time-outs of signals.
    page.add_init_script(
        "AbortSignal.timeout = () => AbortSignal.abort(new DOMException('', 'TimeoutError'))"
    )
    visit(page, server, "models")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    expect(page.get_by_role("alert")).to_contain_text("no answer came in the time")


def test_page_that_did_not_come_is_asked_for_again(page: Page, server: ServerProcess) -> None:
    visit(page, server, "models")
    page.route("**/compare.js", lambda route: route.abort("connectionrefused"))
    page.get_by_role("link", name="Compare", exact=True).first.click()
    told = page.get_by_role("alert")
    expect(told).to_contain_text("The server does not answer")
    expect(told).to_contain_text("Compare")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Compare two answers")).to_be_visible()


@pytest.mark.parametrize(
    ("size", "title", "words"),
    [(0, "The server does not take this", "0 bytes"), (40 * 2**20, "Too large", "bytes")],
)
def test_file_of_a_size_that_the_server_does_not_take_gets_its_reason(
    page: Page, server: ServerProcess, tmp_path: Path, size: int, title: str, words: str
) -> None:
    path = tmp_path / "picture.png"
    with path.open("wb") as written:
        written.truncate(size)
    visit(page, server, "try?model=colours")
    page.set_input_files("#picture", path)
    expect(page.get_by_role("alert")).to_contain_text(title)
    expect(page.get_by_role("alert")).to_contain_text(words)


def test_file_that_is_gone_is_not_blamed_on_the_server(
    page: Page, server: ServerProcess, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(file()["buffer"])
    visit(page, server, "try?model=colours")
    page.set_input_files("#picture", path)
    expect(page.locator(".bars")).to_be_visible()
    path.unlink()
    page.get_by_label("Classes").select_option("10 best")
    expect(page.get_by_role("alert")).to_contain_text("The file cannot be read")


def test_models_stay_while_the_server_is_gone_and_are_up_to_date_again(
    page: Page, server: ServerProcess
) -> None:
    page.clock.install()
    visit(page, server, "models")
    expect(page.get_by_role("button", name="colours")).to_be_visible()
    page.route(MODELS, lambda route: route.abort("connectionrefused"))
    page.clock.run_for(6000)
    expect(page.get_by_text("Not up to date")).to_be_visible()
    expect(page.get_by_role("button", name="colours")).to_be_visible()
    page.unroute_all()
    page.route(MODELS, lambda route: route.fulfill(body=json.dumps({"models": [model("back")]})))
    page.clock.run_for(6000)
    expect(page.get_by_role("button", name="back")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
