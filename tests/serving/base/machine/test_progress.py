"""Bars and lines that tell how far long work is."""

import contextlib
import logging
import os
import pty
import subprocess
import sys

import pytest

from serving.base.machine import progress
from serving.base.machine.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed, as the one element."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Progress, "_told", 0.0)
    return now


def test_without_a_terminal_a_line_comes_now_and_then(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Progress("data", 1000) as work:
        for _ in range(100):
            clock[0] += 0.5
            work.advance(10)
    lines = caplog.messages
    # 50 seconds: the first line after 3, the others 10 apart.
    assert lines[0] == "data: 60 of 1000 images, 20 images/s, 47 s left"
    assert lines[1] == "data: 260 of 1000 images, 20 images/s, 37 s left"
    assert len(lines) == 5


def test_work_of_unknown_length_tells_its_rate(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Progress("train: epoch 1/2", None) as work:
        clock[0] += 40
        work.said = "8 min for all 2 epochs"
        work.advance(50)
    assert caplog.messages == ["train: epoch 1/2: 50 images, 1.25 images/s, 8 min for all 2 epochs"]


def test_work_inside_of_other_work_is_silent(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Progress("sensitivity", 2, "layers") as outer:
        clock[0] += 20
        with Progress("answers", 10) as inner:
            clock[0] += 20
            inner.advance(5)
        outer.advance()
    assert [line.split(":")[0] for line in caplog.messages] == ["sensitivity"]


def test_later_processes_of_torchrun_are_silent(
    clock: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for rank, lines in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        with Progress("data", 10) as work:
            clock[0] += 20
            work.advance(5)
        assert len(caplog.messages) == lines


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(8.4, "8 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 00 min"), (12_000, "3 h 20 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


_WORK = """
import logging, sys
from serving.base.machine.progress import Progress, TerminalLog
logging.basicConfig(level=logging.INFO, handlers=[TerminalLog()], format="%(message)s")
with Progress("data [of] a set", 4) as work:
    for index in range(4):
        work.advance()
        logging.info("a line")
print("result")
"""


def test_terminal_gets_a_bar_below_the_lines() -> None:
    main, side = pty.openpty()
    working = subprocess.Popen(
        [sys.executable, "-c", _WORK],
        stdout=subprocess.PIPE,
        stderr=side,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
        text=True,
    )
    os.close(side)
    shown = b""
    with contextlib.suppress(OSError):  # the end: nobody holds the other side any more
        while part := os.read(main, 1 << 16):
            shown += part
    os.close(main)
    assert working.communicate()[0] == "result\n"
    text = shown.decode()
    assert "data [of] a set" in text
    assert "4/4" in text
    assert text.count("a line") == 4
