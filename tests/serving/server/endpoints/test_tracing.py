"""Trace settings, and traces of calls."""

import asyncio
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client import Counter

from serving.base.errors import InvalidInput
from serving.server.endpoints import tracing
from serving.server.endpoints.file_writer import FilesFolder
from serving.server.endpoints.tracing import Tracer

ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]}


@pytest.fixture
def failures() -> Counter:
    return Counter("failures", "Failures.", ("kind",), registry=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder for files."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def tracer(failures: Counter, folder: Path) -> Tracer:
    return Tracer(FilesFolder(folder), failures)


def update(tracer: Tracer, changes: Mapping[str, Sequence[str]], model: str = "") -> None:
    """Changes settings, and waits until the traces so far are written."""
    asyncio.run(tracer.update(changes, model))
    tracer.wait(10)


def call(tracer: Tracer, times: int = 1, model: str = "colours") -> None:
    for _ in range(times):
        tracer.record(model, "3", "id", began=10.0, queue=0.002, infer=0.001)


def test_each_call_of_the_rate_is_traced(tracer: Tracer, folder: Path) -> None:
    file = folder / "traces.json"
    update(tracer, ON | {"trace_rate": ["2"], "trace_file": [file.name]})
    call(tracer, 5)
    update(tracer, {"trace_level": ["OFF"]})
    traces = json.loads(file.read_text())
    assert [trace["id"] for trace in traces] == [1, 2, 3]
    assert traces[0]["model_name"] == "colours"
    assert traces[0]["model_version"] == 3
    assert traces[0]["request_id"] == "id"
    stamps = {stamp["name"]: stamp["ns"] for stamp in traces[0]["timestamps"]}
    assert stamps["REQUEST_START"] == 10_000_000_000
    assert stamps["COMPUTE_START"] - stamps["QUEUE_START"] == pytest.approx(2e6, abs=2)
    assert stamps["COMPUTE_END"] - stamps["COMPUTE_START"] == pytest.approx(1e6, abs=2)


def test_log_frequency_begins_a_file_for_so_many_traces(tracer: Tracer, folder: Path) -> None:
    update(tracer, ON | {"trace_file": ["t"], "log_frequency": ["2"]})
    call(tracer, 5)
    tracer.flush(10)
    sizes = {file.name: len(json.loads(file.read_text())) for file in folder.iterdir()}
    assert sizes == {"t.0": 2, "t.1": 2, "t": 1}


def test_settings_of_a_model_stand_before_the_servers(tracer: Tracer, folder: Path) -> None:
    update(tracer, {"trace_file": ["t"]})
    update(tracer, ON, model="colours")
    call(tracer)
    call(tracer, model="regions")
    update(tracer, {"trace_level": []}, model="colours")
    assert tracer.read("colours")["trace_level"] == ["OFF"]
    assert len(json.loads((folder / "t").read_text())) == 1


def test_folder_that_is_removed_harms_neither_calls_nor_settings(
    tracer: Tracer, failures: Counter, folder: Path
) -> None:
    settings = ON | {"trace_file": ["t"], "log_frequency": ["1"]}
    update(tracer, settings)
    call(tracer)
    tracer.flush(10)
    shutil.rmtree(folder)
    call(tracer, 4)
    update(tracer, {"trace_rate": ["1"]})
    assert failures.labels("trace")._value.get() == 4
    with pytest.raises(InvalidInput, match="'trace_file': another cannot be written: No such"):
        update(tracer, {"trace_file": ["another"]})
    update(tracer, settings | {"trace_level": ["OFF"]})
    call(tracer)
    assert tracer.read()["trace_level"] == ["OFF"]


def test_pipe_and_foreign_file_are_refused_at_once(tracer: Tracer, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "script").write_text("#!/bin/sh\n")
    before = tracer.read()
    for name in ("pipe", "script"):
        with pytest.raises(InvalidInput, match=f"'trace_file': {name} cannot be written"):
            update(tracer, ON | {"trace_file": [name]})
    assert tracer.read() == before
    assert (folder / "script").read_text() == "#!/bin/sh\n"


def test_traces_of_a_former_server_are_written_over(tracer: Tracer, folder: Path) -> None:
    (folder / "t").write_text(json.dumps([{"id": 7}] * 100))
    update(tracer, ON | {"trace_file": ["t"], "trace_count": ["1"]})
    call(tracer)
    tracer.wait(10)
    [trace] = json.loads((folder / "t").read_text())
    assert trace["id"] == 1


def test_what_is_collected_is_bounded_and_the_rest_is_counted(
    tracer: Tracer, failures: Counter, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    update(tracer, ON | {"trace_file": ["t"]})
    for _ in range(tracing.MOST_COLLECTED + 50):
        tracer.record("colours", "3", "i" * 10_000, began=10.0, queue=0.002, infer=0.001)
    assert failures.labels("trace")._value.get() == 50
    update(tracer, {"trace_level": ["OFF"]})
    traces = json.loads((folder / "t").read_text())
    assert len(traces) == tracing.MOST_COLLECTED
    assert traces[0]["request_id"] == "i" * 200
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1
    update(tracer, ON)
    call(tracer)
    assert failures.labels("trace")._value.get() == 50


def test_files_of_one_name_are_bounded(tracer: Tracer, folder: Path) -> None:
    update(tracer, ON | {"trace_file": ["t"], "log_frequency": ["1"]})
    call(tracer, 250)
    tracer.flush(10)
    assert len([file for file in folder.iterdir() if file.name != "t"]) == 100


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
        {"trace_file": ["../file"]},
        {"trace_file": [".bashrc"]},
        {"trace_file": ["x" * 5000]},
        {"trace_file": ["a\0b"]},
        {"trace_file": ["a", "b"]},
    ],
)
def test_settings_that_cannot_be_are_refused_and_change_nothing(
    changes: dict[str, list[str]], tracer: Tracer
) -> None:
    before = tracer.read()
    with pytest.raises(InvalidInput, match="trace setting") as refusal:
        update(tracer, changes)
    assert len(str(refusal.value)) < 500
    assert tracer.read() == before


def test_file_that_a_traced_model_writes_into_cannot_be_taken_away(
    tracer: Tracer, folder: Path
) -> None:
    file = folder / "t"
    update(tracer, {"trace_file": [file.name]})
    update(tracer, ON, model="colours")
    with pytest.raises(InvalidInput, match="trace_file"):
        update(tracer, {"trace_file": []})
    call(tracer)
    update(tracer, {"trace_level": ["OFF"]}, model="colours")
    assert len(json.loads(file.read_text())) == 1
    update(tracer, {"trace_file": []})
