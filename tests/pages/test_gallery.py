"""The gallery of an embedding model in a real browser, on a real server: pictures that stay in the
page, and those of them that are nearest to another one."""

from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, Route, expect

from tests.pages.conftest import NARROW
from tests.pages.console import as_png, file, visit
from tests.support.process import ServerProcess

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
LARGE_MIB = 32


def plain(name: str, folder: str = "") -> FilePayload:
    """A picture of one colour."""
    return file(as_png(Image.new("RGB", (24, 16), COLOURS[name])), f"{folder}{name}.png")


def nearest(page: Page) -> Locator:
    return page.locator(".nearest li")


def small(page: Page) -> Locator:
    return page.get_by_role("list", name="Pictures in the gallery").get_by_role("listitem")


def write_people(root: Path) -> Path:
    """A folder for each colour with a picture of it, and files that are none."""
    for name, colour in COLOURS.items():
        folder = root / "people" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (24, 16), colour).save(folder / "1.png")
    (root / "people" / ".DS_Store").write_bytes(b"\x00")
    (root / "people" / "names.txt").write_text("red, green, blue")
    return root / "people"


def test_gallery_ranks_its_pictures_by_their_likeness_to_a_probe(
    page: Page, server: ServerProcess
) -> None:
    visit(page, server, "try?model=points")
    page.set_input_files("#gallery-files", [plain(name) for name in COLOURS])
    expect(small(page)).to_have_count(3)
    page.set_input_files("#picture", file(as_png(Image.new("RGB", (9, 9), (40, 200, 20))), "p.png"))
    expect(nearest(page)).to_have_count(3)
    expect(nearest(page).first).to_contain_text("green.png")
    scores = [float(text) for text in page.locator(".nearest .number").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    # The network's points are the mean colours, on the unit sphere.
    a, b = (np.array(colour) / np.linalg.norm(colour) for colour in ((40, 200, 20), (20, 220, 20)))
    assert scores[0] == pytest.approx(float(a @ b), abs=2e-3)
    expect(page.get_by_role("status").filter(has_text="green.png, similarity")).to_be_attached()


def test_gallery_grows_after_the_probe_and_is_emptied(page: Page, server: ServerProcess) -> None:
    visit(page, server, "try?model=points")
    page.set_input_files("#picture", file())
    expect(page.get_by_text("There is nothing to compare it with")).to_be_visible()
    page.get_by_role("button", name="Keep it in the gallery").click()
    expect(page.get_by_text("three.png added")).to_be_visible()
    page.set_input_files("#picture", plain("red"))
    expect(nearest(page)).to_have_count(1)
    page.set_input_files("#gallery-files", [plain("red", "other-")])
    expect(nearest(page)).to_have_text(["other-red.png1.000", "three.png0.780"])
    visit(page, server, "models")
    visit(page, server, "try?model=points")
    expect(nearest(page)).to_have_count(2)
    page.get_by_role("button", name="Empty it").click()
    expect(nearest(page)).to_have_count(0)
    expect(small(page)).to_have_count(0)
    expect(page.locator("#gallery-files")).to_be_focused()


def test_pictures_of_a_folder_are_taken_and_other_files_left_out(
    page: Page, server: ServerProcess, tmp_path: Path
) -> None:
    visit(page, server, "try?model=points")
    page.set_input_files("#gallery-folder", write_people(tmp_path))
    expect(page.get_by_text("3 pictures added; 2 left out: no image")).to_be_visible()
    page.set_input_files("#picture", plain("blue"))
    expect(nearest(page).first).to_contain_text("people/blue/1.png")


def test_folder_that_is_dropped_fills_the_gallery_and_one_file_is_a_probe(
    page: Page, server: ServerProcess, tmp_path: Path
) -> None:
    people = write_people(tmp_path)
    visit(page, server, "try?model=points")
    session = page.context.new_cdp_session(page)

    def drop(path: Path, over: Locator) -> None:
        box = over.bounding_box()
        assert box is not None
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send(
                "Input.dispatchDragEvent",
                {
                    "type": kind,
                    "x": box["x"] + 20,
                    "y": box["y"] + 20,
                    "data": {"items": [], "files": [str(path)], "dragOperationsMask": 1},
                },
            )

    gallery = page.get_by_role("region", name="Gallery")
    expect(gallery).to_be_visible()
    drop(people, page.locator(".zone"))
    expect(page.get_by_text("3 pictures added")).to_be_visible()
    drop(people / "red" / "1.png", page.locator(".zone"))
    expect(nearest(page).first).to_contain_text("people/red/1.png")
    drop(people / "green" / "1.png", gallery)
    expect(nearest(page)).to_have_count(4)
    # Models that give no points see one picture.
    visit(page, server, "try?model=colours")
    expect(gallery).to_be_hidden()
    drop(people, page.locator(".zone"))
    expect(page.get_by_text("the first of 3")).to_be_visible()
    expect(page.locator(".bars .name").first).to_have_text("blue")


def test_picture_that_the_server_does_not_take_is_told_and_the_others_are_compared(
    page: Page, server: ServerProcess
) -> None:
    visit(page, server, "try?model=points")
    broken = file(b"no image", "<b>broken</b>.png")
    page.set_input_files("#gallery-files", [broken, file(b"", "empty.png"), plain("red")])
    reasons = page.get_by_role("region", name="Gallery").locator(".reasons li")
    expect(reasons).to_have_count(2)
    expect(reasons.first).to_contain_text("<b>broken</b>.png: ")
    expect(reasons.last).to_contain_text("empty.png: ")
    page.set_input_files("#picture", plain("red", "probe-"))
    expect(nearest(page)).to_have_count(1)


def test_gallery_is_bounded(page: Page, server: ServerProcess) -> None:
    visit(page, server, "try?model=points")
    expect(page.get_by_role("region", name="Gallery")).to_be_visible()
    # Files made in the page: their content is never asked for.
    page.route("**/embed", lambda route: route.fulfill(status=503, json={"error": "later"}))
    page.evaluate(
        """(large) => {
            const transfer = new DataTransfer();
            const about = { type: "image/png", lastModified: 1 };
            const add = (content, name) => transfer.items.add(new File([content], name, about));
            add(new Uint8Array(large), "large.png");
            for (let n = 0; n < 502; n += 1) add(`${n}`, `${n}.png`);
            add("1", "1.png");
            const dropped = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
            document.body.dispatchEvent(dropped);
        }""",
        LARGE_MIB * 2**20 + 1,
    )
    told = page.get_by_role("region", name="Gallery").get_by_role("status")
    for text in (
        "500 pictures added",
        "1 left out: there already",
        f"1 left out: more than {LARGE_MIB}.0 MiB",
        "2 left out: more than 500 pictures",
    ):
        expect(told).to_contain_text(text)


def test_full_server_is_waited_for_and_one_that_fails_is_asked_again(
    page: Page, server: ServerProcess
) -> None:
    asked: list[int] = []

    def full(route: Route) -> None:
        asked.append(1)
        if len(asked) == 1:
            route.fulfill(status=429, json={"error": "full"}, headers={"Retry-After": "1"})
        elif len(asked) == 3:
            route.fulfill(status=500, json={"error": "it broke"})
        else:
            route.continue_()

    visit(page, server, "try?model=points")
    page.route("**/embed", full)
    page.set_input_files("#gallery-files", [plain("red"), plain("green")])
    expect(page.get_by_role("alert")).to_contain_text("it broke")
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "1")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("progressbar")).to_be_hidden()
    assert len(asked) == 4


def test_gallery_is_filled_by_keyboard_and_stands_in_nobodys_way(
    page: Page, server: ServerProcess
) -> None:
    page.on("filechooser", lambda chooser: chooser.set_files([plain("red"), plain("blue")]))
    page.set_viewport_size(NARROW)
    visit(page, server, "try?model=points")
    expect(page.get_by_role("region", name="Gallery")).to_be_visible()
    page.get_by_role("combobox", name="Model").focus()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "gallery-files":
            break
    outline = page.locator("label[for=gallery-files]").evaluate(
        "label => getComputedStyle(label).outlineStyle"
    )
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(small(page)).to_have_count(2)
    page.set_input_files("#picture", plain("red", "probe-"))
    expect(nearest(page)).to_have_count(2)
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
