"""A run folder that anybody may have made is read within bounds, or refused in one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.reports import classification
from training.errors import BuildError
from training.evaluation.report.report_file import REPORT_FILE, read_report, write_json


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_json(tmp_path / REPORT_FILE, classification().report)
    return tmp_path


def refused(run: Path) -> str:
    with pytest.raises(BuildError) as caught:
        read_report(run)
    text = str(caught.value)
    assert len(text) < 500
    assert len(text.splitlines()) == 1
    return text


def test_report_reads_back_as_it_was_written(run: Path) -> None:
    assert read_report(run) == classification().report.model_copy(
        update={"created": read_report(run).created}
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "schema_version: expected 1.x, got None"),
        (b'{"schema_version": "2.0"}', "schema_version: expected 1.x, got '2.0'"),
        (b'{"schema_version": "1.0"}', "created: Field required"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": 1e999}', "is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xff\xfe\x00", "UTF-16"),
        (b" " * ((8 << 20) + 1), "has more than 8,388,608 bytes"),
    ],
    ids=[
        "empty", "cut", "deep", "list", "newer", "bare", "nan", "infinite", "digits", "utf16",
        "large",
    ],
)  # fmt: skip
def test_broken_document_is_told_in_one_line(run: Path, content: bytes, reason: str) -> None:
    (run / REPORT_FILE).write_bytes(content)
    assert reason in refused(run)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda d: d["verified"].update(images=-1), "verified.images"),
        (lambda d: d["data"].update(classes=d["data"]["classes"] * 100), "data.classes"),
        (lambda d: d.update(name="x" * 500), "name"),
        (lambda d: d["verified"]["entries"][0].update(evidence=None), "verified.entries.0"),
        (lambda d: d["state"].update(kind="<b>"), "state.kind"),
        (lambda d: d["verified"]["baseline"].update(value=10**400), "verified.baseline.value"),
    ],
    ids=["negative", "many", "long", "missing", "unknown", "huge"],
)
def test_wrong_value_is_told_by_its_place(
    run: Path, change: Callable[[dict[str, Any]], None], place: str
) -> None:
    document = json.loads((run / REPORT_FILE).read_text())
    change(document)
    (run / REPORT_FILE).write_text(json.dumps(document))
    assert f"{REPORT_FILE}: {place}" in refused(run)


def test_pipe_and_link_are_not_followed(tmp_path: Path, run: Path) -> None:
    content = (run / REPORT_FILE).read_bytes()
    (run / REPORT_FILE).unlink()
    os.mkfifo(run / REPORT_FILE)
    assert "is no regular file" in refused(run)
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "elsewhere.json").write_bytes(content)
    (other / REPORT_FILE).symlink_to(tmp_path / "elsewhere.json")
    assert "leads out of its folder" in refused(other)


def test_folder_without_a_report_is_told_apart_from_none(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "missing")
    assert "is no run folder" in refused(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    assert "build it again" in refused(tmp_path)
