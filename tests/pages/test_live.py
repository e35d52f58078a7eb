"""The console's page of live charts in a real browser: its numbers are those that were sent."""

import json
import re
import urllib.error
import urllib.request
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect
from prometheus_client.parser import text_string_to_metric_families

from tests.pages.conftest import NARROW, WIDE, faults_of
from tests.support.process import ServerProcess

NONE = "\N{EN DASH}"
METRICS = "**/debug/metrics"
NAMES = [
    "<img src=x onerror=alert(1)>",
    'a "quoted\\" {name}',
    "line\nbreak",
    "\u202egnp",
    "x" * 300,
]
# Values up to each bound, and quantiles of them as `promtool test rules` gives those of
# histogram_quantile (2.42) for the rise of such a histogram.
BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
QUANTILES = [
    [
        [3, 3, 4, 4, 5, 7, 8, 9, 9, 9, 10, 10, 10, 10, 10, 10, 10, 10, 10],
        [[0.0, 0.0], [0.5, 0.0025], [0.9, 0.025], [0.99, 0.23500000000000004], [1.0, 0.25]],
    ],
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 4, 5, 6, 10],
        [[0.5, 30.0], [0.9, 60.0], [0.99, 60.0], [1.0, 60.0]],
    ],
    [
        [0, 0, 0, 4, 23, 33, 72, 118, 176, 234, 310, 367, 409, 441, 473, 489, 495, 499, 500],
        [[0.5, 0.13157894736842105], [0.9, 3.203125], [0.99, 30.0], [1.0, 60.0]],
    ],
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 17, 30, 46, 81, 123, 198, 260, 500],
        [[0.5, 55.16129032258065], [0.9, 60.0], [0.99, 60.0], [1.0, 60.0]],
    ],
]


def infer(server: ServerProcess, model: str = "colours", rows: int = 1) -> int:
    """Sends zeros; the status."""
    data = {"name": "image", "shape": [rows, 8, 8, 3], "datatype": "UINT8"}
    body = json.dumps({"inputs": [data | {"data": [0] * (rows * 192)}]}).encode()
    request = urllib.request.Request(f"{server.http}/v2/models/{model}/infer", data=body)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


# Ends when the page has done the tasks that wait.
_TASKS = """async () => {
  const { port1, port2 } = new MessageChannel();
  for (let task = 0; task < 20; task++) {
    await new Promise((done) => { port1.onmessage = done; port2.postMessage(0); });
  }
}"""


class Live:
    """The page, whose time passes when a test says so."""

    def __init__(self, page: Page, server: ServerProcess, query: str = "") -> None:
        self.page = page
        page.clock.install(time=1_700_000_000)
        page.goto("about:blank")
        page.clock.pause_at(1_700_000_001)
        with page.expect_response(METRICS):
            page.goto(f"{server.http}/#/live{query}")
        self.slider = page.get_by_role("slider", name="Calls by outcome")
        expect(self.slider).to_have_attribute("aria-valuetext", re.compile(r"^\d\d:\d\d:\d\d: "))

    def pass_time(self, seconds: float = 2, *, shown: bool = True) -> str:
        """Until the next scrape; its text. shown: the charts change by it."""
        before = self.slider.get_attribute("aria-valuetext") or ""
        with self.page.expect_response(METRICS) as answer:
            self.page.clock.run_for(int(1000 * seconds))
        answer.value.finished()
        if shown:
            expect(self.slider).not_to_have_attribute("aria-valuetext", before)
        else:
            self.page.evaluate(_TASKS)
        return answer.value.text()

    def chart(self, title: str) -> Locator:
        return self.page.get_by_role("figure").filter(
            has=self.page.get_by_role("heading", name=title, exact=True)
        )

    def values(self, title: str) -> dict[str, str]:
        """What stands below a chart."""
        items = self.chart(title).locator(".keys li")
        return {
            item.locator(".name").inner_text(): item.locator("b").inner_text()
            for item in items.all()
        }

    def shows(self, title: str, name: str, value: str | re.Pattern[str]) -> None:
        item = self.chart(title).locator(".keys li").filter(has_text=name)
        expect(item.locator("b")).to_have_text(value)

    def figure(self, name: str) -> Locator:
        return self.page.locator(".figures > div").filter(has_text=name).locator("dd")


def test_rates_are_those_of_the_calls_that_were_sent(page: Page, server: ServerProcess) -> None:
    live = Live(page, server)
    for _ in range(30):
        assert infer(server, rows=2) == 200
    for _ in range(6):
        assert infer(server, "points") == 200
    for _ in range(3):
        assert infer(server, "absent") == 404
    live.pass_time()
    live.shows("Calls by outcome", "OK", "18.0/s")
    live.shows("Calls by outcome", "NOT_FOUND", "1.5/s")
    live.shows("Rows by model", "colours", "30.0/s")
    live.shows("Rows by model", "points", "3.0/s")
    expect(live.figure("Calls")).to_contain_text("19.5/s")
    expect(live.figure("Not OK")).to_contain_text("7.7 %")
    page.get_by_role("combobox", name="Model").select_option("=points")
    live.shows("Calls by outcome", "OK", "3.0/s")
    live.shows("Rows in a batch", "mean", "1")
    expect(live.figure("Not OK")).to_contain_text("0.0 %")
    # A window of ten seconds: nothing more comes, and the rate is that of a longer time.
    live.pass_time()
    live.shows("Calls by outcome", "OK", "1.5/s")
    for _ in range(4):
        live.pass_time()
    live.shows("Calls by outcome", "OK", "0/s")


def quantile(q: float, before: str, after: str, family: str, **labels: str) -> float:
    """Of the values that came between two texts, as Prometheus' documentation describes it."""

    def buckets(text: str) -> dict[float, float]:
        return {
            float(sample.labels["le"]): sample.value
            for each in text_string_to_metric_families(text)
            for sample in each.samples
            if sample.name == f"{family}_bucket" and labels.items() <= sample.labels.items()
        }

    old = buckets(before)
    found = sorted((le, value - old.get(le, 0)) for le, value in buckets(after).items())
    rank, low, below = q * found[-1][1], 0.0, 0.0
    for le, count in found:
        if count >= rank:
            return low + (le - low) * (rank - below) / (count - below)
        low, below = le, count
    raise AssertionError(found)


def test_quantiles_are_those_of_the_time_between_two_scrapes(
    page: Page, server: ServerProcess
) -> None:
    live = Live(page, server, "?model=colours")
    before = live.pass_time()
    for rows in (1, 8) * 20:
        assert infer(server, rows=rows) == 200
    after = live.pass_time()
    live.shows("Calls by outcome", "OK", "10.0/s")
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        for title, family, labels in (
            ("Time of a call", "convserve_request_duration_seconds", {}),
            (f"Time by stage, {name}", "convserve_stage_duration_seconds", {"stage": "infer"}),
        ):
            expected = quantile(q, before, after, family, model="colours", **labels)
            shown = live.values(title)[labels.get("stage", name)]
            number, unit = shown.split()
            scale = {"ms": 1e3, "s": 1.0}[unit]
            assert float(number) == pytest.approx(expected * scale, rel=0.01, abs=0.006)


def test_quantiles_agree_with_those_of_prometheus(page: Page, server: ServerProcess) -> None:
    page.goto(f"{server.http}/")
    found = page.evaluate(
        """async ([bounds, cases]) => {
          const { histogramQuantile } = await import("/console/metrics.js");
          return cases.map(([counts, q]) => histogramQuantile(q, [...bounds, Infinity], counts));
        }""",
        [BOUNDS, [[counts, q] for counts, by_q in QUANTILES for q, _ in by_q]],
    )
    assert found == pytest.approx([value for _, by_q in QUANTILES for _, value in by_q])


def text(requests: dict[str, float], more: str = "") -> str:
    """A scrape, of calls by model."""
    lines = []
    for model, value in requests.items():
        name = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        labels = f'model="{name}",version="1",method="Classify",code="OK"'
        lines.append(f"convserve_requests_total{{{labels}}} {value}")
        lines.append(f'nv_inference_count{{model="{name}",version="1"}} {value}')
    return "\n".join(["# HELP x y", *lines, more]) + "\n"


def faked(page: Page, *bodies: Any) -> None:
    """Lets the server answer with these in turn, and with the last one from then on: a text, or a
    status with its headers."""
    left = list(bodies)

    def answer(route: Route) -> None:
        body = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(body, str):
            route.fulfill(status=200, body=body)
        else:
            status, headers = body
            route.fulfill(status=status, headers=headers, body='{"error": "so it is"}')

    page.route(METRICS, answer)


def test_a_server_that_begins_anew_counts_from_nothing(page: Page, server: ServerProcess) -> None:
    faked(page, text({"a": 1e6}), text({"a": 1e6 + 20}), text({"a": 8}), text({"a": 12}))
    live = Live(page, server)
    live.pass_time()
    live.shows("Calls by outcome", "OK", "10.0/s")
    live.pass_time()
    live.shows("Calls by outcome", "OK", "7.0/s")  # 20 before, 8 after
    expect(live.chart("Calls by outcome").locator("svg text.mark")).to_have_text("restarted")
    live.pass_time()
    live.shows("Calls by outcome", "OK", "5.3/s")


def test_a_tab_that_nobody_sees_asks_nothing_and_says_nothing_about_that_time(
    page: Page, server: ServerProcess
) -> None:
    faked(page, text({"a": 0}), text({"a": 10}), text({"a": 1e9}), text({"a": 1e9 + 4}))
    live = Live(page, server)
    live.pass_time()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    page.clock.run_for(3600_000)
    assert asked == []
    with page.expect_response(METRICS):
        page.evaluate(hide, False)
    live.shows("Calls by outcome", "OK", NONE)
    live.pass_time()
    live.shows("Calls by outcome", "OK", "2.0/s")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("refusal", "title", "tries"),
    [
        ((401, {}), "The server wants to know who calls", False),
        ((403, {}), "Not allowed", False),
        ((404, {}), "Not found", False),
        ((429, {"Retry-After": "9"}), "The server is full", True),
        ((503, {}), "Not ready", True),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_refusals_are_shown_and_are_no_reason_to_ask_more_often(
    refusal: tuple[int, dict[str, str]], title: str, tries: bool, page: Page, server: ServerProcess
) -> None:
    faked(page, text({"a": 1}), refusal, text({"a": 2}))
    live = Live(page, server)
    live.pass_time(shown=False)
    if refusal[0] == 401:
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(title)
    expect(alert).to_contain_text("so it is")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(1900)
    assert asked == []
    if tries:
        expect(page.get_by_role("status")).to_contain_text("Next try in")
        live.pass_time(8)
    else:
        page.clock.run_for(60_000)
        assert asked == []
        with page.expect_response(METRICS):
            alert.get_by_role("button", name="Try again").click()
    expect(alert).to_have_count(0)


def test_a_server_that_never_answers_is_given_up_and_asked_again(
    page: Page, server: ServerProcess
) -> None:
    faked(page, text({"a": 1}))
    live = Live(page, server)
    page.unroute(METRICS)
    held: list[Route] = []
    page.route(METRICS, lambda route: held.append(route))
    with page.expect_request(METRICS):
        page.clock.run_for(2000)
    page.clock.run_for(15_000)
    expect(page.get_by_role("alert")).to_contain_text("it has not answered for 15 s")
    page.unroute(METRICS)
    faked(page, text({"a": 2}))
    live.pass_time()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_names_of_strangers_are_texts_and_many_series_are_the_largest_and_the_others(
    page: Page, server: ServerProcess
) -> None:
    many = {f"model-{number:04}": 0.0 for number in range(2500)} | dict.fromkeys(NAMES, 0.0)
    later = {name: 2.0 + 2 * index for index, name in enumerate(many)}
    faked(page, text(many), text(later), text(later))
    live = Live(page, server)
    live.pass_time()
    shown = live.chart("Rows by model").locator(".keys li")
    expect(shown).to_have_count(8)
    for name in NAMES[:3]:
        expect(shown.filter(has_text=name.replace("\n", " ")).locator(".name")).to_have_attribute(
            "title", name
        )
    expect(shown.last).to_contain_text("2498 others")
    assert page.locator("main img").count() == 0
    live.shows("Calls by outcome", "OK", "3.1 M/s")
    options = page.get_by_role("combobox", name="Model").locator("option")
    expect(options).to_have_count(2506)
    page.get_by_role("combobox", name="Model").select_option(f"={NAMES[1]}")
    live.shows("Calls by outcome", "OK", "2.5 k/s")


def test_text_that_is_no_metric_is_passed_over(page: Page, server: ServerProcess) -> None:
    broken = "\n".join(
        (
            'convserve_requests_total{code="OK" 5',
            'convserve_requests_total{code="OK"} x',
            "convserve_requests_total{",
            "convserve_requests_total",
            "convserve_requests_total NaN",
            'convserve_request_duration_seconds_bucket{le="nonsense"} 3',
            "{} 4",
            "\0",
        )
    )
    faked(page, text({"a": 0}, broken), text({"a": 4}, broken))
    live = Live(page, server)
    live.pass_time()
    live.shows("Calls by outcome", "OK", "2.0/s")
    assert live.values("Time of a call") == {"p50": NONE, "p99": NONE}


def test_the_keyboard_reads_every_point_and_a_table_has_them_too(
    page: Page, server: ServerProcess
) -> None:
    faked(page, *(text({"a": value}) for value in (0, 2, 6, 12)))
    live = Live(page, server)
    for _ in range(3):
        live.pass_time()
    live.shows("Calls by outcome", "OK", "2.0/s")
    slider = page.get_by_role("slider", name="Calls by outcome")
    slider.focus()
    said = []
    for key in ("End", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
        said.append(slider.get_attribute("aria-valuetext") or "")
    assert [each.partition(": ")[2] for each in said] == [
        "OK 2.0/s", "OK 1.5/s", "OK 1.0/s", f"OK {NONE}", f"OK {NONE}", "OK 1.0/s",
    ]  # fmt: skip
    expect(live.chart("Calls by outcome").locator(".tip")).to_contain_text("1.0/s")
    live.shows("Rows by model", "a", "1.0/s")  # the same moment in every chart
    page.keyboard.press("Escape")
    live.shows("Rows by model", "a", "2.0/s")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    cells = live.chart("Calls by outcome").locator("tbody td")
    expect(cells).to_have_text(["2.0/s", "1.5/s", "1.0/s", NONE])


def test_a_page_that_is_paused_stands_still_and_has_missed_nothing(
    page: Page, server: ServerProcess
) -> None:
    faked(page, *(text({"a": value}) for value in (0, 4, 8, 12)))
    live = Live(page, server)
    live.pass_time()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("Paused at")
    live.pass_time(shown=False)
    live.pass_time(shown=False)
    points = live.chart("Calls by outcome").locator("tbody tr")
    live.chart("Calls by outcome").locator("summary").click()
    expect(points).to_have_count(2)
    page.get_by_role("button", name="Go on").click()
    expect(points).to_have_count(4)
    page.get_by_role("combobox", name="Last").select_option("1 minute")
    expect(points).to_have_count(4)


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_nothing_serious_is_in_the_way_of_anybody(
    size: Any, scheme: Any, browser: Browser, server: ServerProcess
) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    faults = faults_of(page)
    live = Live(page, server)
    infer(server)
    live.pass_time()
    page.get_by_text("How these numbers are made").click()
    live.chart("Calls by outcome").locator("summary").click()
    page.clock.resume()  # which axe waits by
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults == []
    context.close()
