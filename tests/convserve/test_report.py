"""`convserve.Report`: attributes, and the table that a notebook shows."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import convserve
from serving.base.evaluation import Estimate
from serving.repository.manifest import Evidence, Gate, Latency

NAME = '<script>alert("x")</script>'


def evidence(milliseconds: float, *, passed: bool) -> dict[str, Any]:
    estimate = Estimate(value=0.95, low=0.93, high=0.97, n=300)
    return Evidence(
        accuracy=estimate,
        drop=Estimate(value=0.001, low=-0.01, high=0.01, n=300),
        agreement=0.99,
        samples_tolerance=0.1,
        latency=Latency(machine="here", milliseconds={1: milliseconds, 8: 8 * milliseconds}),
        gate=Gate(passed=passed, reason="within bounds" if passed else "lost too much"),
    ).model_dump(mode="json")


def entry(variant: str, milliseconds: float, *, passed: bool = True) -> dict[str, Any]:
    return {
        "variant": variant,
        "engine": "openvino",
        "precision": "fp32",
        "size_bytes": 2048,
        "evidence": evidence(milliseconds, passed=passed),
    }


def document(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The least that is a report.json."""
    size = {"parameters": 1000, "macs": 2000}
    return {
        "schema_version": "1.0",
        "created": "2026-01-01T00:00:00Z",
        "name": "flowers",
        "state": {"kind": "published", "stage": "publish"},
        "task": "classification",
        "measure": "top1",
        "architecture": "resnet20",
        "input_size": [32, 32],
        "channels": 3,
        "seed": 0,
        "recipe_sha256": "0",
        "recipe": {"name": "flowers"},
        "published": {"repository": "model_repo", "version": 3},
        "previous": None,
        "data": {
            "description": "photos",
            "sha256": "0",
            "images": {"train": 100, "val": 10, "test": 300},
            "unit": "images",
            "classes": [],
            "class_count": 0,
            "median": [64, 64],
            "seen": [32, 32],
            "examples": [],
            "warnings": [],
            "duplicates": {},
        },
        "verified": {
            "dataset": "photos",
            "images": 300,
            "machine": "here",
            "baseline": Estimate(value=0.951, low=0.93, high=0.97, n=300).model_dump(mode="json"),
            "baseline_engine": "torch",
            "baseline_latency": {},
            "baseline_bytes": None,
            "baseline_size": size,
            "network_size": size,
            "entries": entries,
            "shown": [entries[0]["variant"], "openvino"],
            "skipped": {},
            "classes": None,
            "pairs": None,
            "answers": [],
        },
        "training": [],
        "sensitivities": [],
        "notes": [],
        "searched": None,
        "stages": [{"name": "train", "seconds": 12.5}],
        "environment": {
            "python": "3.11",
            "system": "Linux",
            "machine": "here",
            "engines": {},
            "packages": {},
        },
    }


def report_of(folder: Path, entries: list[dict[str, Any]]) -> convserve.Report:
    (folder / "report.json").write_text(json.dumps(document(entries)))
    return convserve.Report(folder)


class Tags(HTMLParser):
    """Names of the elements of a page, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= {"style"}
        self.found.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_attributes_say_what_came_of_the_build(tmp_path: Path) -> None:
    report = report_of(tmp_path, [entry("int8-u8", 0.2), entry("int8-s8", 0.1, passed=False)])
    assert (report.name, report.task, report.measure) == ("flowers", "classification", "top1")
    assert (report.state, report.version) == ("published", 3)
    assert report.model_repository == Path("model_repo")
    assert report.page == tmp_path / "report.html"
    assert report.seconds == {"train": 12.5}
    assert report.baseline is not None
    assert report.baseline.value == 0.951
    assert report.best == report.variants[0]
    assert report.best.milliseconds == {1: 0.2, 8: 1.6}
    assert [one.passed for one in report.variants] == [True, False]
    assert report.document()["seed"] == 0
    assert repr(report) == (
        "<convserve.Report flowers: published as version 3; int8-u8 in openvino: "
        "top-1 accuracy 95.00 [93.00, 97.00] %, 0.20 ms at batch size 1>"
    )


def test_nothing_that_failed_its_gate_is_the_best(tmp_path: Path) -> None:
    assert report_of(tmp_path, [entry("int8-s8", 0.1, passed=False)]).best is None


def test_notebook_shows_a_table_of_plain_elements(tmp_path: Path) -> None:
    page = report_of(tmp_path, [entry(NAME, 0.2), entry("fp32", 1, passed=False)])._repr_html_()
    shown = Tags(page)
    assert set(shown.found) <= {
        "div",
        "p",
        "b",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "code",
    }
    assert NAME in shown.text  # escaped, it is a text
    assert "failed: lost too much" in shown.text
    assert "//" not in page.replace(NAME, "")


def test_table_of_a_notebook_is_bounded(tmp_path: Path) -> None:
    page = report_of(tmp_path, [entry(f"{n}" * 40, 1 + n) for n in range(400)])._repr_html_()
    assert len(page) < 64_000
    assert "and 360 more" in page


def test_folder_without_a_report_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(convserve.BuildError, match="is no run folder") as raised:
        convserve.Report(tmp_path)
    assert "\n" not in str(raised.value)
    file = tmp_path / "report.json"
    file.write_text("{")
    with pytest.raises(convserve.BuildError) as raised:
        convserve.Report(file)
    assert str(raised.value) == f"{file}: a file; expected the folder of a run, such as {tmp_path}"
    with pytest.raises(convserve.BuildError, match=r"report\.json: not valid JSON"):
        convserve.Report(tmp_path)
