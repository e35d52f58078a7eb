"""Candidates are timed in another process, so that the server holds only what it serves."""

import logging
import sys
from functools import partial
from pathlib import Path

import pytest

from serving.base.errors import EngineUnavailable
from serving.base.metrics import EngineMetrics
from serving.batching.core_turns import CoreTurns
from serving.engines import Engine, EngineOptions, load_engine
from serving.models.loading import version as loading
from serving.models.loading.candidates import LoadSettings
from serving.models.loading.loaded import LoadedVersion
from serving.models.loading.timing_process import time_apart
from serving.models.loading.version import load_model
from serving.repository.manifest import Gate, read_manifest, write_manifest
from serving.repository.model_config import read_model_config
from tests.support.published import CPU_ENGINES, publish


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that this process has loaded."""
    names: list[str] = []

    def counted(name: str, file: Path, options: EngineOptions) -> Engine:
        names.append(name)
        return load_engine(name, file, options)

    monkeypatch.setattr(loading, "load_engine", counted)
    monkeypatch.setattr(loading, "_TIMED_APART_BYTES", 0)
    monkeypatch.setattr(loading, "_LIGHT_SECONDS", 0.0)
    return names


def load(model: Path, cache: Path) -> LoadedVersion:
    settings = LoadSettings(threads=1, cache_dir=cache)
    apart = partial(time_apart, model, 1, settings)
    config = read_model_config(model)
    return load_model(model, config, 1, settings, EngineMetrics(), CoreTurns(1), apart)


def test_only_what_serves_is_loaded_here(tmp_path: Path, loaded: list[str]) -> None:
    folder = publish(tmp_path / "repository").parent
    for _ in range(2):
        load(folder, tmp_path / "cache").close()
    assert len(list((tmp_path / "cache" / "latency").glob("*.json"))) == len(CPU_ENGINES)
    assert len(loaded) == 2
    assert len(set(loaded)) == 1


@pytest.mark.parametrize(
    ("python", "reason"),
    [("/bin/false", "it ended with 1"), ("/no/python", "No such file or directory")],
)
def test_candidates_are_timed_here_where_no_process_can_be_had(
    python: str,
    reason: str,
    tmp_path: Path,
    loaded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    with caplog.at_level(logging.WARNING):
        load(publish(tmp_path / "repository").parent, tmp_path / "cache").close()
    assert sorted(loaded) == sorted(CPU_ENGINES)
    [record] = caplog.records
    assert "no process of its own" in record.message
    assert vars(record)["model"] == "colours"
    assert reason in vars(record)["reason"]


def test_a_file_that_is_not_there_leaves_the_others_to_serve(
    tmp_path: Path, loaded: list[str]
) -> None:
    folder = publish(tmp_path / "repository")
    manifest = read_manifest(folder)
    assert manifest is not None
    [there] = manifest.variants
    missing = there.model_copy(update={"id": "fp16", "file": "model.fp16.onnx"})
    write_manifest(folder, manifest.model_copy(update={"variants": (missing, there)}))
    model = load(folder.parent, tmp_path / "cache")
    model.close()
    assert model.facts.variant == "fp32"
    assert len(loaded) == 1
    assert any("model.fp16.onnx: cannot be read" in line for line in model.facts.rejected)


def test_what_cannot_be_served_is_said_once(
    tmp_path: Path, loaded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = publish(tmp_path / "repository", gate=Gate(passed=False, reason="drops 3 points"))
    with caplog.at_level(logging.WARNING), pytest.raises(EngineUnavailable, match="drops 3 points"):
        load(folder.parent, tmp_path / "cache")
    assert not caplog.records
    assert not loaded
