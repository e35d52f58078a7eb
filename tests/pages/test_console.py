"""The console in a real browser, on a real server: its pages models, try and compare."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, Route, expect

from tests.pages.conftest import NARROW, WIDE, faults_of
from tests.support.process import ServerProcess

TIMES = "\N{MULTIPLICATION SIGN}"
MODELS = "**/vision/v1/models"
HOSTILE = "<img src=x onerror=document.title='broken'>"


def picture(height: int = 60, width: int = 90) -> bytes:
    """Red, green and blue, from left to right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for channel in range(3):
        pixels[:, channel * width // 3 : (channel + 1) * width // 3, channel] = 220 - 40 * channel
    return as_png(Image.fromarray(pixels))


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def file(data: bytes | None = None, name: str = "three.png") -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": picture() if data is None else data}


def visit(page: Page, server: ServerProcess, place: str) -> None:
    page.goto(f"{server.http}/#/{place}")


def show(page: Page, server: ServerProcess, place: str, data: bytes | None = None) -> None:
    """Opens a page and gives it a picture."""
    visit(page, server, place)
    page.set_input_files("#picture", file(data))


def answers(page: Page, where: str, body: Any, status: int = 200, **headers: str) -> None:
    """Lets the server answer so."""
    text = body if isinstance(body, str) else json.dumps(body)
    page.route(where, lambda route: route.fulfill(status=status, body=text, headers=headers))


def model(name: str, **changes: Any) -> dict[str, Any]:
    """A version as the server describes it."""
    interval = {"value": 0.941, "low": 0.923, "high": 0.956, "n": 400}
    variant = {
        "variant": "int8-s8", "precision": "int8", "engine": "openvino", "serves": True,
        "bytes": 3_100_000, "accuracy": interval, "drop": interval | {"value": 0.004},
        "agreement": 0.98, "latency_ms": {"1": 3.1, "8": 14.2}, "machine": "a machine",
        "gate": {"passed": True, "reason": "within bounds"},
    }  # fmt: skip
    slow = {**variant, "variant": "fp32", "precision": "fp32", "serves": False, "bytes": 11_000_000}
    return {
        "name": name, "version": "1", "state": "READY", "reason": "", "task": "classification",
        "variant": "int8-s8", "engine": "openvino", "classes": 102, "max_batch_size": 8,
        "latency_ms": {"1": 2.9, "2": 4.8, "4": 8.1, "8": 14.0}, "device_bytes": 0, "signed_by": [],
        "rejected": ["fp32 in openvino: slower here"], "architecture": "mobilenet_v3_small",
        "parameters": 1_620_000, "gmacs": 0.06, "pruning_ratio": 0.3, "image": [224, 224, 3],
        "measure": "top1", "dataset": "flowers", "split": "test", "created": "2026-01-01",
        "variants": [variant, slow], **changes,
    }  # fmt: skip


# Models.


def test_models_are_shown_with_what_was_measured_of_them(page: Page, server: ServerProcess) -> None:
    visit(page, server, "models")
    row = page.get_by_role("row").filter(has_text="colours")
    for text in ("Ready", "classification", "fp32", "99.0 %", "100.0, n=400"):
        expect(row).to_contain_text(text)
    row.get_by_role("button", name="colours").click()
    expect(page.get_by_text("Latency here, measured at load")).to_be_visible()
    expect(page.get_by_role("cell", name="passed").first).to_be_visible()
    page.get_by_role("link", name="Try an image").click()
    expect(page).to_have_url(f"{server.http}/#/try?model=colours&version=1")


def test_models_that_do_not_serve_say_why(page: Page, server: ServerProcess) -> None:
    broken = {"name": "broken", "version": "2", "state": "UNAVAILABLE", "reason": "no variant fits"}
    idle = {"name": "idle", "version": "", "state": "", "reason": ""}
    answers(page, MODELS, {"models": [model("good"), broken, idle]})
    visit(page, server, "models")
    expect(page.get_by_text("3 versions, 1 ready")).to_be_visible()
    expect(page.locator("tbody").filter(has_text="broken")).to_contain_text("Not available")
    expect(page.get_by_text("no variant fits")).to_be_visible()
    page.get_by_label("Show models in state").select_option("Not ready")
    expect(page.get_by_text("2 of 3 versions, 1 ready")).to_be_visible()
    expect(page.get_by_role("button", name="good")).to_be_hidden()


@pytest.mark.parametrize(
    ("created", "shown"),
    [("2026-11-30T09:30:12+00:00", "2026-11-30 09:30 UTC"), ("last week", "last week")],
)
def test_the_time_of_a_build_is_readable(
    page: Page, server: ServerProcess, created: str, shown: str
) -> None:
    answers(page, MODELS, {"models": [model("good", created=created)]})
    visit(page, server, "models")
    page.get_by_role("button", name="good").click()
    expect(page.get_by_role("definition").filter(has_text=shown)).to_have_text(shown)


def test_models_are_sorted_and_filtered(page: Page, server: ServerProcess) -> None:
    names = ["b", "c", "a"]
    found = [model(name, latency_ms={"1": at + 1.0}) for at, name in enumerate(names)]
    answers(page, MODELS, {"models": [*found, {**model("none"), "latency_ms": {}}]})
    visit(page, server, "models")
    toggles = page.locator("tbody .toggle:visible")
    expect(toggles).to_have_text(["a", "b", "c", "none"])
    by_latency = page.get_by_role("button", name="Batch of 1")
    by_latency.click()
    expect(toggles).to_have_text(["b", "c", "a", "none"])
    by_latency.click()
    expect(toggles).to_have_text(["a", "c", "b", "none"])
    page.get_by_label("Show models with").fill("OPENVINO none")
    expect(toggles).to_have_text(["none"])
    page.get_by_label("Show models with").fill("nothing")
    expect(page.get_by_text("No model fits.")).to_be_visible()


def test_open_row_stays_open_and_keeps_the_focus_when_the_model_changes(
    page: Page, server: ServerProcess
) -> None:
    answers(page, MODELS, {"models": [model("a"), model("b")]})
    page.clock.install()
    visit(page, server, "models")
    toggle = page.get_by_role("button", name="a", exact=True)
    toggle.press("Enter")
    answers(page, MODELS, {"models": [model("a", variant="fp16"), model("b")]})
    page.clock.run_for(6000)
    expect(page.get_by_role("row").filter(has_text="fp16").first).to_be_visible()
    expect(toggle).to_have_attribute("aria-expanded", "true")
    expect(toggle).to_be_focused()


# Try.


def test_classes_of_a_picture_are_ranked_and_the_stages_of_the_call_told(
    page: Page, server: ServerProcess
) -> None:
    show(page, server, "try?model=colours")
    bars = page.locator(".bars .name")
    expect(bars).to_have_text(["red", "green", "blue"])
    stages = page.get_by_role("region", name="Where the time went")
    for stage in ("Decode and resize", "Wait for a batch", "Infer", "Make the answer"):
        expect(stages).to_contain_text(stage)
    widths = stages.locator(".stages i").evaluate_all(
        "all => all.map(i => parseFloat(i.style.width))"
    )
    assert sum(widths) == pytest.approx(100, abs=1)
    expect(page.get_by_role("status").filter(has_text="red,")).to_be_attached()


def test_mask_lies_over_its_picture_and_its_classes_are_hidden_and_shown(
    page: Page, server: ServerProcess
) -> None:
    show(page, server, "try?model=regions")
    legend = page.get_by_role("region", name="Classes in the mask").get_by_role("row")
    expect(legend).to_have_count(4)
    drawn = (
        "() => new Uint32Array(document.querySelector('.mask').getContext('2d')"
        ".getImageData(0, 0, 8, 8).data.buffer).reduce((sum, p) => sum + (p !== 0), 0)"
    )
    some = page.evaluate(drawn)
    page.get_by_role("button", name="Show all").click()
    assert page.evaluate(drawn) == 64 > some
    page.get_by_role("checkbox", name="blue").uncheck()
    assert page.evaluate(drawn) < 64
    page.get_by_label("Opacity of the mask").fill("20")
    expect(page.locator(".mask")).to_have_css("opacity", "0.2")
    page.locator(".over-picture").hover(position={"x": 5, "y": 5})
    expect(page.get_by_text("Here: red")).to_be_visible()


def test_picture_may_be_dropped_pasted_or_photographed(page: Page, server: ServerProcess) -> None:
    page.add_init_script("""
        const seen = document.createElement("canvas");
        seen.width = seen.height = 32;
        const drawing = seen.getContext("2d");
        setInterval(() => drawing.fillRect(0, 0, 32, 32), 50);
        navigator.mediaDevices.getUserMedia = async () => seen.captureStream(30);
    """)
    visit(page, server, "try?model=colours")
    given = """([kind, data]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(data)], `${kind}.png`, { type: "image/png" }));
        const made = kind === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
        document.body.dispatchEvent(made);
    }"""
    expect(page.get_by_role("button", name="Use the camera")).to_be_visible()
    for kind in ("drop", "paste"):
        page.evaluate(given, [kind, list(picture())])
        expect(page.get_by_text(f"{kind}.png · 90 {TIMES} 60")).to_be_visible()
        expect(page.locator(".bars")).to_be_visible()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the photograph").click()
    expect(page.get_by_text(f"photograph · 32 {TIMES} 32")).to_be_visible()
    expect(page.locator("video")).to_have_count(0)


def test_file_that_is_no_image_gets_the_servers_reason(page: Page, server: ServerProcess) -> None:
    show(page, server, "try?model=colours", b"no image at all")
    expect(page.get_by_role("alert")).to_contain_text("The server does not take this")
    expect(page.get_by_text("not shown: the browser does not know it")).to_be_visible()


def test_picture_of_100_megapixels_is_not_decoded_here_and_refused_there(
    page: Page, server: ServerProcess
) -> None:
    show(page, server, "try?model=colours", as_png(Image.new("1", (10_000, 10_000))))
    expect(page.get_by_text(f"10000 {TIMES} 10000 pixels are too many to show")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("pixels")


# Compare.


def test_two_answers_are_compared_class_by_class(page: Page, server: ServerProcess) -> None:
    second = {"labels": [{"index": 1, "name": "green", "score": 0.7}], "version": "2"}

    def changed(route: Route) -> None:
        answer = route.fetch(url=route.request.url.replace("versions/2", "versions/1"))
        route.fulfill(response=answer, json=answer.json() | second)

    first = model("colours", image=[8, 8, 3])
    answers(page, MODELS, {"models": [first, {**first, "version": "2"}]})
    page.route("**/versions/2/classify*", changed)
    show(page, server, "compare?model=colours&version=1")
    expect(page.get_by_role("heading", name="A says red, B says green.")).to_be_visible()
    rows = page.locator(".gaps tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.filter(has_text="blue")).to_contain_text("below")


def test_two_masks_are_compared_pixel_by_pixel(page: Page, server: ServerProcess) -> None:
    show(page, server, "compare?model=regions")
    expect(page.get_by_role("heading", name="Every pixel agrees")).to_be_visible()
    page.unroute_all()

    def other(route: Route) -> None:
        answer = route.fetch().json()
        areas = [{"index": 1, "name": "green", "fraction": 1.0, "confidence": 0.5}]
        given = {"raw": "AQ==", "height": 1, "width": 1, "areas": areas}
        route.fulfill(json=answer | (given if calls else {}))
        calls.append(1)

    calls: list[int] = []
    page.route("**/segment*", other)
    page.set_input_files("#picture", file())
    expect(page.get_by_role("heading", name="of the pixels differ")).to_be_visible()
    expect(page.get_by_role("img", name="Difference of the masks")).to_be_visible()
    expect(page.locator(".areas-compared tbody tr").first).to_contain_text("green")


def test_answers_of_different_tasks_are_not_compared(page: Page, server: ServerProcess) -> None:
    show(page, server, "compare?model=colours")
    page.get_by_role("combobox", name="B").select_option(index=1)
    expect(page.get_by_role("alert")).to_contain_text("cannot be compared")


# Whom it serves, and what goes wrong.


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


def test_mask_of_150_classes_has_a_legend_that_scrolls(page: Page, server: ServerProcess) -> None:
    def many(route: Route) -> None:
        areas = [
            {"index": i, "name": f"class {i}", "fraction": 1 / 150, "confidence": 0}
            for i in range(150)
        ]
        route.fulfill(json=route.fetch().json() | {"areas": areas})

    page.route("**/segment*", many)
    show(page, server, "try?model=regions")
    region = page.get_by_role("region", name="Classes in the mask")
    expect(region.get_by_role("row")).to_have_count(151)
    heights = region.evaluate("region => [region.scrollHeight, region.clientHeight]")
    assert heights[0] > heights[1] > 0
    expect(region).to_have_attribute("tabindex", "0")


def test_address_of_no_page_shows_the_models(page: Page, server: ServerProcess) -> None:
    visit(page, server, "nowhere")
    expect(page.get_by_role("heading", name="Models")).to_be_visible()


# For everybody.


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


@pytest.mark.slow
def test_with_50_models_three_interactions_of_four_take_less_than_100_ms(
    page: Page, server: ServerProcess
) -> None:
    tasks = ("classification", "segmentation", "embedding")
    models = [model(f"model-{at:02}", task=tasks[at % 3]) for at in range(50)]
    answers(page, MODELS, {"models": models})
    # Durations of events, from the input to the frame that shows what it did.
    page.add_init_script("""
        window.durations = new Map();
        new PerformanceObserver((list) => {
            for (const { interactionId: id, duration } of list.getEntries())
                if (id) durations.set(id, Math.max(duration, durations.get(id) ?? 0));
        }).observe({ type: "event", durationThreshold: 16, buffered: true });
    """)
    visit(page, server, "models")
    expect(page.get_by_text("50 versions, 50 ready")).to_be_visible()
    interactions = 0
    for at in range(0, 50, 5):
        page.get_by_role("button", name=f"model-{at:02}").click()
        interactions += 1
    for title in ("Model", "State", "Task", "Accuracy", "Size", "Batch of 1"):
        page.get_by_role("button", name=title, exact=True).click()
        interactions += 1
    page.get_by_label("Show models with").press_sequentially("model-1 openvino")
    interactions += len("model-1 openvino")
    for name in ("Try", "Models", "Compare", "Models"):
        page.get_by_role("navigation").get_by_role("link", name=name, exact=True).click()
        interactions += 1
    page.wait_for_timeout(200)
    told = page.evaluate("() => [...durations.values()]")
    # Those of less than 16 ms are not told.
    durations = sorted([16.0] * (interactions - len(told)) + told)
    p75 = durations[int(0.75 * len(durations))]
    assert p75 < 100, durations
