"""The protocol's log settings."""

import asyncio
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter

from serving.base.errors import InvalidInput
from serving.server.endpoints.file_writer import FilesFolder
from serving.server.endpoints.log_settings import LogSettings

logger = logging.getLogger("test")
# As the server's lines begin.
_FORMAT = logging.Formatter('{"time": "%(asctime)s", "message": "%(message)s"}')


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
def logs(failures: Counter, folder: Path) -> Iterator[LogSettings]:
    root = logging.getLogger()
    level, formatter = root.level, root.handlers[0].formatter
    root.handlers[0].setFormatter(_FORMAT)
    root.setLevel(logging.INFO)
    logs = LogSettings(FilesFolder(folder), failures)
    yield logs
    change(logs, log_file="")
    root.setLevel(level)
    root.handlers[0].setFormatter(formatter)


def change(logs: LogSettings, **changes: Any) -> None:
    asyncio.run(logs.update(changes))


def messages(file: Path) -> list[str]:
    return [line.split('"')[-2] for line in file.read_text().splitlines()]


def test_lines_go_into_the_file_as_the_settings_of_their_level_say(
    logs: LogSettings, folder: Path
) -> None:
    change(logs, log_file="log", log_info=True)
    logger.info("first")
    change(logs, log_info=False)
    logger.info("second")
    logger.warning("third")
    change(logs, log_warning=False)
    logger.warning("fourth")
    logger.error("fifth")
    change(logs, log_error=False, log_info=True)
    logger.critical("sixth")
    logger.info("seventh")
    change(logs, log_file="")
    logger.warning("eighth")
    logs.wait(10)
    assert messages(folder / "log") == ["first", "third", "fifth", "seventh"]


def test_the_operators_log_loses_no_line_by_a_call(
    logs: LogSettings, caplog: pytest.LogCaptureFixture
) -> None:
    change(logs, log_info=False, log_warning=False, log_error=False)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "line %s", level)
    assert [record.levelno for record in caplog.records] == [20, 30, 40]


def test_verbose_level_adds_lines_until_it_is_taken_back(logs: LogSettings) -> None:
    root = logging.getLogger()
    before = root.level
    change(logs, log_verbose_level=1)
    assert root.level == logging.DEBUG
    change(logs, log_verbose_level=0, log_error=False)
    assert root.level == before


def test_file_that_is_rotated_is_begun_anew(
    logs: LogSettings, folder: Path, tmp_path: Path
) -> None:
    file = folder / "log"
    change(logs, log_file="log")
    for text in ("before", "after"):
        logger.warning(text)
        logs.wait(10)
        file.rename(tmp_path / text)
    assert messages(tmp_path / "before") == ["before"]
    assert messages(tmp_path / "after") == ["after"]


def test_file_that_takes_no_line_harms_nobody_and_is_said_once(
    logs: LogSettings, failures: Counter, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(logs, log_file="log")
    shutil.rmtree(folder)
    for _ in range(5):
        logger.warning("line")
        logs.wait(10)
    said = [record.getMessage() for record in caplog.records]
    assert said.count("line") == 5
    assert said.count("file cannot be written") == 1
    # The line about the fault cannot be written either.
    assert failures.labels("log")._value.get() == 6
    change(logs, log_file="")
    assert logs.read()["log_file"] == ""


@pytest.mark.parametrize("fault", ["fifo", "link", "another file"])
def test_file_that_cannot_be_written_is_refused_at_once(
    fault: str, logs: LogSettings, folder: Path
) -> None:
    match fault:
        case "fifo":
            os.mkfifo(folder / "log")
        case "link":
            (folder / "log").symlink_to("/dev/null")
        case "another file":
            (folder / "log").write_text("key")
    before = logs.read()
    with pytest.raises(InvalidInput, match="'log_file': log cannot be written: "):
        change(logs, log_file="log", log_info=False)
    assert logs.read() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"log_fil": "x"},
        {"x" * 5000: 1},
        {"log_info": "yes"},
        {"log_info": 1},
        {"log_verbose_level": True},
        {"log_verbose_level": -1},
        {"log_verbose_level": 2**32},
        {"log_verbose_level": 10**400},
        {"log_format": "xml"},
        {"log_file": "/no/such/folder/file"},
        {"log_file": "x" * 5000},
        {"log_file": "a\0b"},
        {"log_file": "/"},
        {"log_file": "../log"},
    ],
)
def test_settings_that_cannot_be_are_refused_and_change_nothing(
    changes: dict[str, Any], logs: LogSettings, folder: Path
) -> None:
    before = logs.read()
    with pytest.raises(InvalidInput, match="log setting") as refusal:
        change(logs, **changes)
    assert len(str(refusal.value)) < 500
    assert logs.read() == before
    assert not list(folder.iterdir())
