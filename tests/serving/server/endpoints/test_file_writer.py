"""Files written beside the calls: only what is ours, faults counted and said once, nobody held
up."""

import logging
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from serving.base.counting.sums import Tally
from serving.base.errors import InvalidInput
from serving.server.config import StartError
from serving.server.endpoints import file_writer
from serving.server.endpoints.file_writer import FilesFolder, FileWriter


@pytest.fixture
def counter() -> Tally:
    return Tally("failures", "Failures.", ("kind",))


@pytest.fixture
def writer(counter: Tally, tmp_path: Path) -> FileWriter:
    """Writes files that begin with "[" into tmp_path/files."""
    (tmp_path / "files").mkdir()
    return FileWriter("trace", FilesFolder(tmp_path / "files"), b"[", counter)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "files" / "file"


def failures(counter: Tally) -> float:
    return counter.labels("trace").value


def test_texts_are_appended_or_take_the_place_of_the_others(writer: FileWriter, file: Path) -> None:
    for parts, append in ((("[", "old"), True), (("[new",), False), (("er \ud800",), True)):
        writer.write("file", parts, append=append)
    writer.wait(10)
    assert file.read_text() == "[newer ?"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


FAULTS = ["no folder", "a folder", "a pipe", "a link", "a hard link", "another file", "of another"]


def put(fault: str, file: Path) -> Path:
    """Something in the way of a file. Returns a file of somebody else that must stay."""
    victim = file.parent.parent / "victim"
    victim.write_text("[victim")
    match fault:
        case "no folder":
            shutil.rmtree(file.parent)
        case "a folder":
            file.mkdir()
        case "a pipe":
            os.mkfifo(file)
        case "a link":
            file.symlink_to(victim)
        case "a hard link":
            file.hardlink_to(victim)
        case "another file":
            file.write_text("#!/bin/sh\n")
        case "of another":
            if os.geteuid() != 0:
                pytest.skip("only root may give a file away")
            file.write_text("[theirs")
            os.chown(file, 10001, 10001)
    return victim


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("append", [True, False])
def test_faults_are_counted_each_and_logged_once_and_nothing_foreign_is_written(
    fault: str,
    append: bool,
    writer: FileWriter,
    counter: Tally,
    file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    victim = put(fault, file)
    before = file.read_bytes() if file.is_file() else b""
    for _ in range(5):
        writer.write("file", ("[text",), append=append)
    writer.wait(10)
    assert writer.check("file")
    assert failures(counter) == 5
    [record] = caplog.records
    assert record.message == "file cannot be written"
    assert record.levelno == logging.ERROR
    assert vars(record)["file"] == "file"
    assert vars(record)["reason"]
    assert victim.read_text() == "[victim"
    assert (file.read_bytes() if file.is_file() else b"") == before


def test_fault_that_comes_back_is_logged_again(
    writer: FileWriter, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        file.parent.mkdir(exist_ok=True)
        writer.write("file", ("[",), append=True)
        writer.wait(10)
        shutil.rmtree(file.parent)
        for _ in range(3):
            writer.write("file", ("[",), append=True)
        writer.wait(10)
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("text", "lost"), [("text", 199), ("x" * (8 << 20), 10_191)], ids=["many", "large"]
)
def test_disk_that_hangs_holds_up_nobody_and_takes_bounded_memory(
    text: str,
    lost: int,
    writer: FileWriter,
    counter: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = threading.Event()
    monkeypatch.setattr(writer, "_write", lambda _: free.wait(10))
    for _ in range(10_200):
        writer.write("file", (text,), append=True)
    assert failures(counter) == pytest.approx(lost, abs=1)
    writer.wait(0.01)
    assert writer.check("file") == "the disk does not answer"
    free.set()


def test_without_a_text_there_is_nothing_to_wait_for(writer: FileWriter) -> None:
    writer.wait(60)


def test_check_makes_the_file(writer: FileWriter, file: Path) -> None:
    assert writer.check("file") == ""
    assert file.read_bytes() == b""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_file_that_grows_is_set_aside_once(
    writer: FileWriter, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_writer, "_LARGEST", 10)
    for number in range(7):
        writer.write("file", (f"[{number}xx",), append=True)
    writer.wait(10)
    assert file.read_text() == "[6xx"
    assert file.with_name("file.1").read_text() == "[3xx[4xx[5xx"
    assert len(list(file.parent.iterdir())) == 2


def test_file_is_not_set_aside_onto_another(
    writer: FileWriter,
    counter: Tally,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file_writer, "_LARGEST", 4)
    file.with_name("file.1").write_text("theirs")
    for _ in range(2):
        writer.write("file", ("[text",), append=True)
    writer.wait(10)
    assert file.with_name("file.1").read_text() == "theirs"
    assert failures(counter) == 1


def test_full_folder_gets_no_further_file(
    writer: FileWriter, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_writer, "_MOST_ENTRIES", 3)
    reasons = [writer.check(f"file{number}") for number in range(5)]
    assert reasons == ["", "", "", *["its folder has 3 entries"] * 2]
    assert writer.check("file0") == ""


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../x", "a/b", ".", "..", ".bashrc", "a\0b", "a\n", "-rf", "a b", "x" * 101,
        "\ud800", "é", "a/../b", "$(x)",
    ],
)  # fmt: skip
def test_name_that_is_not_plain_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="setting: expected a plain name") as refusal:
        FilesFolder(tmp_path).check_name("setting", name)
    assert len(str(refusal.value)) < 400


def test_without_a_folder_no_name_will_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--files-dir DIR"):
        FilesFolder(None).check_name("setting", "plain")
    FilesFolder(None).check_name("setting", "")
    with pytest.raises(StartError, match=r"--files-dir: .*gone: no such folder"):
        FilesFolder(tmp_path / "gone")
