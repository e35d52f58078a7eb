"""The protocol's log settings."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter

from serving.base.errors import InvalidInput
from serving.server.endpoints.log_settings import LogSettings

logger = logging.getLogger("test")


@pytest.fixture
def failures() -> Counter:
    return Counter("failures", "Failures.", ("kind",), registry=None)


@pytest.fixture
def logs(failures: Counter) -> Iterator[LogSettings]:
    level = logging.getLogger().level
    logs = LogSettings(failures)
    yield logs
    logs.update({"log_file": ""})
    logging.getLogger().setLevel(level)


def test_lines_also_go_into_the_file(logs: LogSettings, tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.update({"log_file": str(file), "log_info": True})
    logger.info("first")
    logs.update({"log_info": False})
    logger.info("second")
    logger.warning("third")
    logs.update({"log_file": ""})
    logger.warning("fourth")
    logs.wait(10)
    assert [line.split()[-1] for line in file.read_text().splitlines()] == ["first", "third"]


def test_file_that_is_rotated_is_begun_anew(logs: LogSettings, tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.update({"log_file": str(file)})
    for text in ("before", "after"):
        logger.warning(text)
        logs.wait(10)
        file.rename(tmp_path / text)
    assert "before" in (tmp_path / "before").read_text()
    assert "after" in (tmp_path / "after").read_text()


@pytest.mark.parametrize("fault", ["folder removed", "full disk"])
def test_file_that_takes_no_line_harms_nobody_and_is_said_once(
    fault: str,
    logs: LogSettings,
    failures: Counter,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    logs.update({"log_file": str(folder / "log") if fault == "folder removed" else "/dev/full"})
    shutil.rmtree(folder)
    for _ in range(5):
        logger.warning("line")
        logs.wait(10)
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("line") == 5
    assert messages.count("file cannot be written") == 1
    # The line about the fault cannot be written either.
    assert failures.labels("log")._value.get() == 6
    logs.update({"log_file": ""})
    assert logs.read()["log_file"] == ""


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
        {"log_format": "xml"},
        {"log_file": "/no/such/folder/file"},
        {"log_file": "x" * 5000},
        {"log_file": "a\0b"},
        {"log_file": "/"},
    ],
)
def test_settings_that_cannot_be_are_refused_and_change_nothing(
    changes: dict[str, Any], logs: LogSettings
) -> None:
    before = logs.read()
    with pytest.raises(InvalidInput, match="log setting") as refusal:
        logs.update(changes)
    assert len(str(refusal.value)) < 500
    assert logs.read() == before
