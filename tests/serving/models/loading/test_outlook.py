"""What a machine would do with a repository is said without loading anything."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving.engines import ENGINES
from serving.models.loading import version as loading
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.outlook import prospects
from serving.repository.layout import scan_model
from serving.repository.manifest import Gate
from tests.support.published import publish


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(loading, "load_engine", load)


def told(folder: Path, **settings: Any) -> dict[str, tuple[str, str]]:
    """State and reason by version, variant and engine."""
    found = prospects(scan_model(folder), LoadSettings(**settings))
    return {f"{p.version} {p.variant} {p.engine}".strip(): (p.state, p.reason) for p in found}


def test_several_are_timed_and_a_single_one_serves(tmp_path: Path) -> None:
    folder = publish(tmp_path).parent
    assert told(folder) == {
        "1 fp32 onnxruntime": ("timed at load", ""),
        "1 fp32 openvino": ("timed at load", ""),
    }
    alone = told(folder, engine="openvino")
    assert alone["1 fp32 openvino"] == ("serves", "")
    assert alone["1 fp32 onnxruntime"][0] == "not run here"


def test_refusals_come_with_their_reason(tmp_path: Path) -> None:
    failed = publish(tmp_path, "failed", gate=Gate(passed=False, reason="drops 3 points")).parent
    assert all(s == "refused" and "drops 3 points" in r for s, r in told(failed).values())
    changed = publish(tmp_path, "changed")
    (changed / "model.onnx").write_bytes(b"other")
    assert all(s == "refused" and "sha256" in r for s, r in told(changed.parent).values())
    unproved = publish(tmp_path, "unproved")
    (unproved / "manifest.json").unlink()
    [(state, reason)] = told(unproved.parent).values()
    assert state == "refused"
    assert "--allow-ungated" in reason
    assert {s for s, _ in told(unproved.parent, allow_ungated=True).values()} == {"timed at load"}
    (unproved / "model.onnx").write_bytes(b"junk")
    for state, reason in told(unproved.parent, allow_ungated=True).values():
        assert state == "refused"
        assert "is no ONNX file" in reason


def test_an_engine_that_is_not_here_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(tmp_path)
    document = json.loads((folder / "manifest.json").read_text())
    evidence = document["variants"][0]["evidence"]
    evidence["tensorrt"] = evidence["openvino"]
    (folder / "manifest.json").write_text(json.dumps(document))
    state, reason = told(folder.parent)["1 fp32 tensorrt"]
    assert state == "not run here"
    assert "driver" in reason
    assert "tensorrt" in ENGINES


def test_versions_and_configs_are_told(tmp_path: Path) -> None:
    folder = publish(tmp_path).parent
    publish(tmp_path / "other", version=2)
    (tmp_path / "other" / "colours" / "2").rename(folder / "2")
    lines = told(folder)
    assert lines["1"] == ("not selected", "the version policy selects [2]")
    assert lines["2 fp32 openvino"][0] == "timed at load"
    (folder / "config.pbtxt").unlink()
    [first, *_] = prospects(scan_model(folder), LoadSettings())
    assert first.completed == ()
    assert {p.completed for p in prospects(scan_model(folder), LoadSettings()) if p.variant} == {
        ("platform", "max_batch_size", "input", "output")
    }
    [(state, reason)] = told(folder, strict_config=True).values()
    assert (state, "not found" in reason) == ("broken", True)
