"""The console's page that compares two answers in a real browser: classes, masks, and tasks that
differ."""

from playwright.sync_api import Page, Route, expect

from tests.pages.console import MODELS, answers, file, model, show
from tests.support.process import ServerProcess


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
