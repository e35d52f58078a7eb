"""Reports of runs that measured nothing, or next to nothing: no figure is made up."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.report.checks import check, parse_condition
from loadtest.report.comparison import compare
from loadtest.report.html_page import render_page
from loadtest.report.junit import write_junit
from loadtest.report.summary import summarise
from loadtest.report.text import render
from loadtest.results import (
    NOT_SENT,
    OK,
    UNANSWERED,
    Phase,
    Run,
    pack_record,
    read_run,
    records_of,
    write_run,
)

EMPTY = Phase(
    label="poisson 0.2/s", url="h:1", arrivals="poisson", rate=0.2, concurrency=0, started=1000.0,
    begin=0.5, end=1.5, workers=1,
)  # fmt: skip
UNAVAILABLE = 14


def with_statuses(*statuses: int) -> Phase:
    packed = [
        pack_record(0.6 + i / 100, 0, 0.02, 0, status, 0, 0, 1, -1, 0, 0, 0, 0, 0)
        for i, status in enumerate(statuses)
    ]
    return replace(EMPTY, records=records_of(packed))


PHASES = {
    "nothing sent": EMPTY,
    "interrupted in the warm-up": replace(EMPTY, begin=0.2, end=0.2, interrupted=True),
    "all failed": with_statuses(*[UNAVAILABLE] * 5),
    "nothing left the generator": with_statuses(NOT_SENT, NOT_SENT),
    "nothing came back": with_statuses(UNANSWERED),
    "one answer": with_statuses(OK),
}


def run_of(*phases: Phase, models: tuple[str, ...] = ("m",), **settings: object) -> Run:
    return Run({"seed": 0, "max_lateness": 0.01, "objective": 0.1, **settings}, models, phases)


@pytest.mark.parametrize("models", [("m",), ("m", "other")])
@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
def test_every_report_of_it_has_figures_of_zero_or_none(
    phase: Phase, models: tuple[str, ...], tmp_path: Path
) -> None:
    run = run_of(phase, phase, models=models)
    document = summarise(run)
    # Refuses what is no number.
    json.dumps(document, allow_nan=False)
    found = document["phases"][0]
    answered = int((phase.records["status"] == OK).sum())
    assert found["answered"] == answered
    assert found["requests_per_second"] == pytest.approx(answered)
    assert bool(found["latency_ms"]) is bool(answered)
    assert found["p99_stability"]["relative"] is None
    texts = [render(document), render_page(run, document, [])]
    write_junit(document, check(document, [parse_condition("p99>1s")]), tmp_path / "junit.xml")
    texts.append((tmp_path / "junit.xml").read_text())
    for text in texts:
        assert "nan" not in text.replace("UNANSWERED", "").lower()
        assert "inf" not in text.lower()
        assert ", ," not in text
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    failed = {case.get("name") for case in suite.iter("testcase") if len(case)}
    assert failed == (set() if answered else {"answered", "p99>1s"})


def test_a_file_without_phases_says_so(tmp_path: Path) -> None:
    write_run(run_of(), tmp_path / "raw.npz")
    run = read_run(tmp_path / "raw.npz")
    document = summarise(run)
    assert render(document) == "no phase was run"
    assert "1970" not in render_page(run, document, [])


def test_a_comparison_of_nothing_shows_no_ratio() -> None:
    document = summarise(run_of(*[EMPTY] * 4, against="h:2"))
    assert document["comparison"] == compare([]) | {"rounds": 2}
    text = render(document)
    assert text.count("not measured") == 3


def test_a_search_that_sent_nothing_says_so() -> None:
    step = {"rate": 0.5, "reason": "no request was due", "confidence": 0.0, "generator": False}
    search = {"p99_limit_ms": 50.0, "error_rate_limit": 0.0, "best": None, "next": step}
    text = render(summarise(run_of(EMPTY, search={**search, "steps": [step]})))
    assert text.endswith("(at 0.5 requests/s: no request was due)")


def test_names_in_a_page_stay_text() -> None:
    attack = "</title><script>alert(1)</script>\" onload='alert(2)"
    phase = replace(PHASES["one answer"], label=attack, url=attack)
    run = run_of(phase, replace(phase, url=f"{attack}2"), models=(attack,))
    page = render_page(run, summarise(run), [attack])
    assert "alert(1)" in page
    assert "<script" not in page
    assert "\" onload='" not in page
