"""Trace settings, and traces of calls."""

import json
import shutil
from pathlib import Path

import pytest
from prometheus_client import Counter

from serving.base.errors import InvalidInput
from serving.server.endpoints.tracing import Tracer

ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]}


@pytest.fixture
def failures() -> Counter:
    return Counter("failures", "Failures.", ("kind",), registry=None)


@pytest.fixture
def tracer(failures: Counter) -> Tracer:
    return Tracer(failures)


def call(tracer: Tracer, times: int = 1, model: str = "colours") -> None:
    for _ in range(times):
        tracer.record(model, "3", "id", began=10.0, queue=0.002, infer=0.001)


def test_each_call_of_the_rate_is_traced(tracer: Tracer, tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    tracer.update(ON | {"trace_rate": ["2"], "trace_file": [str(file)]})
    call(tracer, 5)
    tracer.update({"trace_level": ["OFF"]})
    traces = json.loads(file.read_text())
    assert [trace["id"] for trace in traces] == [1, 2, 3]
    assert traces[0]["model_name"] == "colours"
    assert traces[0]["model_version"] == 3
    assert traces[0]["request_id"] == "id"
    stamps = {stamp["name"]: stamp["ns"] for stamp in traces[0]["timestamps"]}
    assert stamps["REQUEST_START"] == 10_000_000_000
    assert stamps["COMPUTE_START"] - stamps["QUEUE_START"] == pytest.approx(2e6, abs=2)
    assert stamps["COMPUTE_END"] - stamps["COMPUTE_START"] == pytest.approx(1e6, abs=2)


def test_log_frequency_begins_a_file_for_so_many_traces(tracer: Tracer, tmp_path: Path) -> None:
    tracer.update(ON | {"trace_file": [str(tmp_path / "t")], "log_frequency": ["2"]})
    call(tracer, 5)
    tracer.flush()
    sizes = {file.name: len(json.loads(file.read_text())) for file in tmp_path.iterdir()}
    assert sizes == {"t.0": 2, "t.1": 2, "t": 1}


def test_settings_of_a_model_stand_before_the_servers(tracer: Tracer, tmp_path: Path) -> None:
    tracer.update({"trace_file": [str(tmp_path / "t")]})
    tracer.update(ON, model="colours")
    call(tracer)
    call(tracer, model="regions")
    tracer.update({"trace_level": []}, model="colours")
    assert tracer.read("colours")["trace_level"] == ["OFF"]
    assert len(json.loads((tmp_path / "t").read_text())) == 1


def test_folder_that_is_removed_harms_neither_calls_nor_settings(
    tracer: Tracer, failures: Counter, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    settings = ON | {"trace_file": [str(folder / "t")], "log_frequency": ["1"]}
    tracer.update(settings)
    call(tracer)
    tracer.flush()
    shutil.rmtree(folder)
    call(tracer, 4)
    tracer.update({"trace_rate": ["1"]})
    assert failures.labels("trace")._value.get() == 4
    with pytest.raises(InvalidInput, match="is in no folder that exists"):
        tracer.update({"trace_file": [str(folder / "another")]})
    tracer.update(settings | {"trace_level": ["OFF"]})
    call(tracer)
    assert tracer.read()["trace_level"] == ["OFF"]
    with pytest.raises(InvalidInput, match="is in no folder that exists"):
        tracer.update({"trace_level": ["TIMESTAMPS"]})


def test_full_disk_harms_neither_calls_nor_settings(tracer: Tracer, failures: Counter) -> None:
    tracer.update(ON | {"trace_file": ["/dev/full"], "trace_count": ["1"]})
    call(tracer, 3)
    assert tracer.read()["trace_count"] == ["0"]
    tracer.update({"trace_level": ["OFF"]})
    assert failures.labels("trace")._value.get() == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_rte": ["1"]},
        {"x" * 5000: ["1"]},
        {"trace_level": ["TENSORS"]},
        {"trace_level": ["TIMESTAMPS"]},
        {"trace_rate": ["0"]},
        {"trace_rate": ["--5"]},
        {"trace_rate": ["9" * 5000]},
        {"trace_rate": ["\u0665"]},
        {"trace_rate": ["1", "2"]},
        {"trace_count": ["-2"]},
        {"trace_mode": ["opentelemetry"]},
        {"trace_file": ["/no/such/folder/file"]},
        {"trace_file": ["x" * 5000 + "/file"]},
        {"trace_file": ["a\0b/file"]},
        {"trace_file": ["a\0b"]},
        {"trace_file": ["a", "b"]},
    ],
)
def test_settings_that_cannot_be_are_refused_and_change_nothing(
    changes: dict[str, list[str]], tracer: Tracer
) -> None:
    before = tracer.read()
    with pytest.raises(InvalidInput, match="trace setting") as refusal:
        tracer.update(changes)
    assert len(str(refusal.value)) < 500
    assert tracer.read() == before


def test_file_that_a_traced_model_writes_into_cannot_be_taken_away(
    tracer: Tracer, tmp_path: Path
) -> None:
    file = tmp_path / "t"
    tracer.update({"trace_file": [str(file)]})
    tracer.update(ON, model="colours")
    with pytest.raises(InvalidInput, match="trace_file"):
        tracer.update({"trace_file": []})
    call(tracer)
    tracer.update({"trace_level": ["OFF"]}, model="colours")
    assert len(json.loads(file.read_text())) == 1
    tracer.update({"trace_file": []})
