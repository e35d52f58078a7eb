"""The console's page to try a picture in a real browser: ways to give one, and its answer drawn."""

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.pages.console import TIMES, as_png, picture, show, visit
from tests.support.process import ServerProcess


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
