import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import LoadTestError
from loadtest.report.checks import check, parse_condition
from loadtest.report.junit import write_junit

PHASE: dict[str, Any] = {
    "label": "concurrency 8",
    "seconds": 10.0,
    "requests": 1000,
    "answered": 990,
    "requests_per_second": 99.0,
    "images_per_second": 99.0,
    "errors": {"UNAVAILABLE": 10},
    "error_rate": 0.01,
    "latency_ms": {"p50": {"value": 10.0}, "p99": {"value": 60.0}, "mean": 12.0, "max": 80.0},
    "generator": {"cpu": 0.3, "lateness_ms": {"p99": 0.1}},
    "mean_batch_size": 3.0,
    "void": "",
}
DOCUMENT = {"phases": [PHASE]}


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("p99>50ms", True),
        ("p99 > 0.05 s", True),
        ("p99>60ms", False),
        ("p99>=60000us", True),
        ("p50>50ms", False),
        ("errors>0", True),
        ("errors>10", False),
        ("error_rate>1%", False),
        ("error_rate>0.5%", True),
        ("error_rate>0.005", True),
        ("requests_per_second<100", True),
        ("mean_batch_size<2", False),
        ("mean>11ms", True),
        ("lateness>1ms", False),
        ("accuracy<90%", True),
    ],
)
def test_a_condition_fails_where_it_holds(text: str, fails: bool) -> None:
    assert bool(parse_condition(text).failure(PHASE)) is fails


@pytest.mark.parametrize(
    "text", ["", "p99", "p99>50", "p99>x", "p98>5ms", "errors>1ms", "error_rate>1s", "p99=>5ms"]
)
def test_a_condition_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_condition(text)


def test_what_was_not_measured_fails() -> None:
    assert "has no accuracy" in parse_condition("accuracy<90%").failure(PHASE)


def test_a_void_phase_and_one_without_answers_fail() -> None:
    dead = {**PHASE, "answered": 0, "void": "the generator itself was late"}
    failures = [c.failure for c in check({"phases": [dead]}, []) if c.failure]
    assert failures == [
        "nothing was answered (UNAVAILABLE 10)",
        "the generator itself was late",
    ]


def test_junit_has_a_case_for_each_check(tmp_path: Path) -> None:
    checks = check(DOCUMENT, [parse_condition("p99>50ms"), parse_condition("p50>50ms")])
    write_junit(DOCUMENT, checks, tmp_path / "junit.xml")
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert suite.get("tests") == "4"
    assert suite.get("failures") == "1"
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    failure = cases["p99>50ms"].find("failure")
    assert failure is not None
    assert failure.get("message") == "p99>50ms: concurrency 8 has p99 60 ms"
    assert cases["p50>50ms"].find("failure") is None
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties["p99_ms"] == "60"


def test_junit_into_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="No such file"):
        write_junit(DOCUMENT, [], tmp_path / "none" / "junit.xml")
