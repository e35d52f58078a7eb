"""convserve runs and convserve report, on runs of any making."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.support.reports import Findings, classification, segmentation
from training.cli import report as report_command
from training.cli import runs as runs_command
from training.errors import BuildError
from training.evaluation.report.document import State
from training.evaluation.report.report_file import REPORT_FILE
from training.evaluation.report.runs import find_runs, read_runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs on the same data, one that was cut off, and one whose report is broken."""
    folder = tmp_path / "runs"
    classification().write(folder / "first")
    classification(Findings(right=0.97, milliseconds=1.7)).write(folder / "second")
    classification(Findings(state=State(kind="under way", stage="prune"), version=None)).write(
        folder / "cut-off"
    )
    segmentation().write(folder / "streets")
    broken = folder / "broken"
    broken.mkdir()
    (broken / REPORT_FILE).write_text("{\x1b")
    (folder / "no-run").mkdir()
    return folder


def listed(*arguments: str | Path) -> Result:
    return CliRunner().invoke(runs_command.app, ["runs", *map(str, arguments)])


def compared(*arguments: str | Path) -> Result:
    return CliRunner().invoke(report_command.app, ["report", *map(str, arguments)])


def test_runs_are_listed_with_their_figures_and_states(runs: Path) -> None:
    result = listed(runs, "--json")
    assert result.exit_code == 0
    found = {Path(run["run"]).name: run for run in json.loads(result.stdout)}
    assert found.keys() == {"first", "second", "cut-off", "streets", "broken"}
    first = found["first"]
    assert first["state"] == "published"
    assert first["published_version"] == 3
    assert first["accuracy"]["n"] == 200
    assert first["latency_ms"] == {"1": 0.8, "8": 4.0}
    assert first["size_bytes"] == 194_000
    assert (found["cut-off"]["state"], found["cut-off"]["stage"]) == ("under way", "prune")
    assert found["cut-off"]["accuracy"] is None
    assert found["broken"]["state"] == "unreadable"


def test_table_says_what_is_wrong_in_a_line_each(runs: Path) -> None:
    lines = listed(runs).stdout.splitlines()
    assert lines[1].split() == [
        "run", "date", "network", "data", "version", "accuracy", "%", "ms", "file", "state",
    ]  # fmt: skip
    [row] = [line for line in lines if line.startswith("first")]
    assert "85.00 [79.39, 89.29]" in row
    assert "0.800 (b1)" in row
    assert any("not finished: under way or cut off in prune" in line for line in lines)
    [told] = [line for line in lines if line.startswith("broken:")]
    assert "not valid JSON" in told
    assert "\x1b" not in "".join(lines)


def test_newest_run_comes_first_and_unreadable_ones_last(runs: Path) -> None:
    path = runs / "streets" / REPORT_FILE
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "created": "2999-01-01T00:00:00+00:00"}))
    names = [run.folder.name for run in find_runs(runs)]
    assert (names[0], names[-1]) == ("streets", "broken")


def test_a_run_is_listed_alone(runs: Path) -> None:
    assert [run.folder.name for run in find_runs(runs / "first")] == ["first"]


@pytest.mark.parametrize("folder", ["missing", "no-run"])
def test_folder_without_runs_is_told_in_a_line(runs: Path, folder: str) -> None:
    result = listed(runs / folder)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert str(runs / folder) in result.stderr


def test_runs_on_the_same_data_are_ranked_with_their_intervals(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = compared(runs / "first", runs / "second", runs / "cut-off", "--output", page)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"Page: {page}\n"
    text = page.read_text()
    assert "second</bdi>" in text
    assert "second has the highest top-1 accuracy, 95.50 % (91.67 to 97.61)" in text
    assert "10.50 points above first." in text
    assert "first is the fastest, 0.800 ms for a batch of 1" in text
    assert "cut-off has no accuracy: not finished: under way or cut off in prune." in text
    assert text.count(">best<") == 3  # accuracy, and latency of two sizes: no file is smaller
    assert "<script" not in text


def test_intervals_that_overlap_are_told(runs: Path, tmp_path: Path) -> None:
    classification(Findings(right=0.92)).write(runs / "third")
    page = tmp_path / "page.html"
    assert compared(runs / "first", runs / "third", "--output", page).exit_code == 0
    assert "their 95 % intervals overlap, chance may explain it" in page.read_text()


def test_runs_on_different_data_are_not_compared_and_told_why(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    classification(Findings(data_sha256="e" * 64)).write(runs / "other")
    classification(Findings(data_sha256="")).write(runs / "older")
    result = compared(
        *(runs / name for name in ("first", "streets", "other", "older")),
        "--output",
        page,
        "--json",
    )
    document = json.loads(result.stdout)
    assert document["comparable"] is False
    task, files, unknown = document["reasons"]
    assert task == "first is for classification, streets for segmentation."
    assert "their files, splits or settings of the data differ" in files
    assert unknown == "older did not record its data: an older version built it."
    text = page.read_text()
    assert "These runs cannot be compared" in text
    assert ">best<" not in text
    assert task in text
    assert ">best<" not in text[: text.index("ms, batch")]
    assert '<figure class="plot">' not in text


def test_latencies_of_different_machines_are_not_compared(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    classification(Findings(machine="another", milliseconds=0.1)).write(runs / "elsewhere")
    assert compared(runs / "first", runs / "elsewhere", "--output", page).exit_code == 0
    text = page.read_text()
    assert "Latencies were measured on different machines and are not compared" in text
    assert "is the fastest" not in text
    assert ">best<" not in text


def test_settings_that_differ_are_listed(runs: Path, tmp_path: Path) -> None:
    classification(Findings(changes={"seed": 41})).write(runs / "seeded")
    page = tmp_path / "page.html"
    compared(runs / "first", runs / "seeded", "--output", page)
    recipes = page.read_text().split('id="recipes"')[1]
    assert "<bdi>seed</bdi>" in recipes
    assert "<bdi>41</bdi>" in recipes
    assert "batch_size" not in recipes


def test_settings_are_shown_as_recipes_have_them(runs: Path, tmp_path: Path) -> None:
    path = runs / "first" / REPORT_FILE
    document = json.loads(path.read_text())
    document["recipe"]["export"] = {
        "variants": ["fp32", "int8-u8"],
        "tensorrt": True,
        "opset": None,
        "deep": [[{"a": 1.5}]],
    }
    path.write_text(json.dumps(document))
    page = tmp_path / "page.html"
    assert compared(runs / "first", runs / "second", "--output", page).exit_code == 0
    recipes = page.read_text().split('id="recipes"')[1]
    for shown in ("[fp32, int8-u8]", "true", "null", "[[{a: 1.5}]]"):
        assert f"<bdi>{shown}</bdi>" in recipes


def test_recipe_of_somebody_else_is_bounded(runs: Path, tmp_path: Path) -> None:
    path = runs / "first" / REPORT_FILE
    deep: object = 1
    for _ in range(400):
        deep = {"<b>": deep}
    document = json.loads(path.read_text())
    document["recipe"] = {"deep": deep, **{f"key{n}": "x" * 5000 for n in range(500)}}
    path.write_text(json.dumps(document))
    page = tmp_path / "page.html"
    assert compared(runs / "first", runs / "second", "--output", page).exit_code == 0
    assert len(page.read_text()) < 200_000
    assert "<b>" not in page.read_text()


def test_wrong_use_is_told(runs: Path, tmp_path: Path) -> None:
    alone = compared(runs / "first")
    assert alone.exit_code == 2
    assert "report.html" in alone.stderr.replace("\n", "").replace("│", "").replace(" ", "")
    assert compared(*[runs / "first"] * 9).exit_code == 2
    broken = compared(runs / "first", runs / "broken", "--output", tmp_path / "page.html")
    assert broken.exit_code == 1
    assert len(broken.stderr.splitlines()) == 1
    twice = compared(runs / "first", runs / "first", "--output", tmp_path / "page.html")
    assert "is given twice" in twice.stderr
    nowhere = compared(runs / "first", runs / "second", "--output", tmp_path / "no" / "page.html")
    assert nowhere.exit_code == 1
    assert len(nowhere.stderr.splitlines()) == 1


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        classification().write(tmp_path / name / "flowers")
    names = [name for name, _ in read_runs([tmp_path / "a/flowers", tmp_path / "b/flowers"])]
    assert names == ["a/flowers", "b/flowers"]
    with pytest.raises(BuildError, match="given twice"):
        read_runs([tmp_path / "a/flowers", tmp_path / "a" / "." / "flowers"])
