"""Files written beside the calls: faults are counted and said once, and hold up nobody."""

import logging
import os
import shutil
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from serving.server.endpoints.file_writer import FileWriter, check_writable


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def writer(registry: CollectorRegistry) -> FileWriter:
    return FileWriter("trace", Counter("failures", "Failures.", ("kind",), registry=registry))


def failures(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("failures_total", {"kind": "trace"})


def test_texts_are_appended_or_take_the_place_of_the_others(
    writer: FileWriter, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    for text, append in (("old", True), ("new", False), ("er \ud800", True)):
        writer.write(str(file), text, append=append)
    writer.wait(10)
    assert file.read_text() == "newer ?"


@pytest.mark.parametrize("fault", ["no folder", "full disk", "a folder", "a pipe", "a null byte"])
def test_faults_are_counted_each_and_logged_once(
    fault: str,
    writer: FileWriter,
    registry: CollectorRegistry,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = str(tmp_path / "file")
    match fault:
        case "no folder":
            file = str(tmp_path / "gone" / "file")
        case "full disk":
            file = "/dev/full"
        case "a folder":
            Path(file).mkdir()
        case "a pipe":
            os.mkfifo(file)
        case "a null byte":
            file += "\0"
    for _ in range(5):
        writer.write(file, "text", append=True)
    writer.wait(10)
    assert failures(registry) == 5
    [record] = caplog.records
    assert record.message == "file cannot be written"
    assert record.levelno == logging.ERROR
    assert vars(record)["file"] == file
    assert vars(record)["reason"]


def test_fault_that_comes_back_is_logged_again(
    writer: FileWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    for _ in range(2):
        folder.mkdir()
        writer.write(str(folder / "file"), "text", append=True)
        writer.wait(10)
        shutil.rmtree(folder)
        for _ in range(3):
            writer.write(str(folder / "file"), "text", append=True)
        writer.wait(10)
    assert len(caplog.records) == 2


def test_disk_that_hangs_holds_up_nobody(
    writer: FileWriter,
    registry: CollectorRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = threading.Event()
    monkeypatch.setattr("serving.server.endpoints.file_writer._write", lambda _: free.wait(10))
    for _ in range(10_200):
        writer.write(str(tmp_path / "file"), "text", append=True)
    assert failures(registry) == pytest.approx(199, abs=1)
    writer.wait(0.01)
    free.set()


def test_without_a_text_there_is_nothing_to_wait_for(writer: FileWriter) -> None:
    writer.wait(60)


def test_file_is_made_where_it_can_be_written(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "new"))
    assert (tmp_path / "new").read_bytes() == b""
    with pytest.raises(OSError, match="No such file"):
        check_writable(str(tmp_path / "gone" / "file"))
