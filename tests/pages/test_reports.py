"""Pages of builds in a browser: as files, on a phone, by keyboard, on paper, without scripts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.pages.conftest import NARROW
from tests.support.reports import Findings, classification, embedding, segmentation
from tests.support.studies import ablated, searched
from training.evaluation.report.comparison import comparison_page
from training.evaluation.report.document import State
from training.pipeline.study.run import study_page

# Width of A4 between the margins of 12 mm, pixels.
PAPER = 703
# A page of each task, one that was cut off, many classes with long names, two comparisons,
# and two studies.
PAGES = ("classification", "segmentation", "embedding", "cut-off", "many", "compared", "apart",
         "search", "ablation")  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    cut = Findings(state=State(kind="under way", stage="prune"), version=None)
    names = [f"a_long_name_without_any_blank_{n}" for n in range(200)]
    one, other = classification(), segmentation()
    faster = classification(Findings(milliseconds=0.5, right=0.95))
    written = {
        "classification": one.page(),
        "segmentation": other.page(),
        "embedding": embedding().page(),
        "cut-off": classification(cut).page(),
        "many": classification(Findings(names=names, images=2000)).page(),
        "compared": comparison_page([("one", one.report), ("faster", faster.report)]),
        "apart": comparison_page([("one", one.report), ("other", other.report)]),
        "search": study_page(searched(), "flowers", {}, {"name": "flowers"}),
        "ablation": study_page(ablated(), "flowers", {}, {"name": "flowers"}),
    }
    for name, content in written.items():
        (folder / f"{name}.html").write_text(content, encoding="utf-8")
    return folder


def address(pages: Path, name: str) -> str:
    return (pages / f"{name}.html").as_uri()


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious_light_or_dark(page: Page, pages: Path, name: str) -> None:
    page.goto(address(pages, name))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found = Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in serious] == []


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(page: Page, pages: Path, name: str) -> None:
    page.set_viewport_size(NARROW)
    page.goto(address(pages, name))
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    outside = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter(one =>
             one.getBoundingClientRect().right > innerWidth + 1
             && !one.closest(".box, pre, [popover]")).map(one => one.outerHTML.slice(0, 200))"""
    )
    assert outside == []
    small = page.evaluate(
        """() => [...document.querySelectorAll("svg text, figcaption, td, dd")].filter(one =>
             parseFloat(getComputedStyle(one).fontSize) < 11.5).length"""
    )
    assert small == 0


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_paper(page: Page, pages: Path, name: str) -> None:
    page.goto(address(pages, name))
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER, "height": 1000})
    cut = page.evaluate(
        """() => [...document.querySelectorAll("table, svg, img, pre, p")].filter(one =>
             one.getBoundingClientRect().right > innerWidth + 1)
             .map(one => one.outerHTML.slice(0, 200))"""
    )
    assert cut == []
    assert page.locator("nav").count() == 0 or not page.locator("nav").is_visible()
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


@pytest.fixture
def scriptless(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(java_script_enabled=False)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", ["classification", "segmentation", "embedding"])
def test_mistake_opens_large_by_keyboard_and_without_scripts(
    scriptless: Page, pages: Path, name: str
) -> None:
    scriptless.goto(address(pages, name))
    button = scriptless.locator(".gallery button").nth(1)
    large = scriptless.locator("#answer-2")
    expect(large).to_be_hidden()
    button.press("Enter")
    expect(large).to_be_visible()
    shown, small = (one.bounding_box() for one in (large.locator("img").first, button))
    assert shown is not None
    assert small is not None
    assert shown["height"] > 1.5 * small["height"]
    scriptless.keyboard.press("Escape")
    expect(large).to_be_hidden()
    expect(button).to_be_focused()
    button.click()
    large.get_by_role("button", name="Close").click()
    expect(large).to_be_hidden()


def test_keyboard_reaches_the_tables_that_scroll(page: Page, pages: Path) -> None:
    page.set_viewport_size(NARROW)
    page.goto(address(pages, "classification"))
    box = page.get_by_role("region", name="Variants", exact=True)
    box.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    expect(box).to_be_focused()
    page.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())
