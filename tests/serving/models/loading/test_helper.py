"""Work in a process of its own: one request, one answer, whatever is printed meanwhile."""

import logging
import os
import sys
from pathlib import Path

import pytest

from serving.base.errors import InvalidModelConfig
from serving.models.loading import helper
from serving.models.loading.helper import Bounds, Helper, HelperFailed

TASKS = """
import ctypes, logging, os, sys, time
from serving.base.errors import InvalidModelConfig
from serving.models.loading.helper import report

def echo(**fields):
    print("from Python")
    os.write(1, b"{} from a library\\n")
    return fields

def refuse():
    raise InvalidModelConfig("short", "the whole of it")

def crash():
    os.write(2, b"something\\nlast words\\n")
    os.abort()

def standing():
    with open("/proc/self/oom_score_adj") as file:
        return [os.getpriority(os.PRIO_PROCESS, 0), int(file.read())]

def say(lines, level):
    for _ in range(lines):
        logging.getLogger("helper_tasks").log(level, "said %d", 1, extra={"model": "a"})

def lie(text):
    from serving.models.loading import helper
    report("a lie")
    os.write(helper._answers.fileno(), text.encode())
    time.sleep(60)

def wait(file):
    open(file, "w").close()
    time.sleep(60)
"""
NAMES = ("echo", "refuse", "crash", "wait", "standing", "say", "lie")


@pytest.fixture(autouse=True)
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of the test's own, found by the helper where this process finds them."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "helper_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    start = "from serving.models.loading import helper; helper.TASKS |= {names!r}; helper.main()"
    names = {name: f"helper_tasks:{name}" for name in NAMES}
    monkeypatch.setattr(
        helper, "_START", helper._START.split("from")[0] + start.format(names=names)
    )


def test_an_answer_comes_back_whatever_is_printed() -> None:
    assert Helper("echo", path=Path("/x"), rows=[1, None]).run() == {
        "path": "/x",
        "rows": [1, None],
    }


def test_an_error_of_ours_is_raised_as_it_was_there() -> None:
    with pytest.raises(InvalidModelConfig, match="short") as error:
        Helper("refuse").run()
    assert error.value.detail == "the whole of it"


def test_a_crash_is_told_with_its_last_words() -> None:
    with pytest.raises(HelperFailed, match="last words") as failure:
        Helper("crash").run()
    assert "something" in failure.value.detail


def test_a_helper_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(HelperFailed, match="No such file"):
        Helper("echo").run()


def test_a_helper_can_be_ended_from_another_thread(tmp_path: Path) -> None:
    import threading

    waiting = Helper("wait", file=tmp_path / "started")
    failures: list[Exception] = []

    def run() -> None:
        try:
            waiting.run()
        except HelperFailed as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    while not (tmp_path / "started").exists():
        assert thread.is_alive()
    waiting.kill()
    thread.join(timeout=10)
    assert len(failures) == 1


def test_a_helper_with_bounds_gives_way_and_is_the_first_to_go() -> None:
    assert Helper("standing", Bounds(60, 0)).run() == [19, 1000]
    assert Helper("standing").run() == [os.getpriority(os.PRIO_PROCESS, 0), 1000]


def test_lines_that_it_logs_are_logged_here_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(helper, "_LOG_LINES", 3)
    with caplog.at_level(logging.WARNING):
        Helper("say", lines=5, level=logging.WARNING).run()
        Helper("say", lines=1, level=logging.INFO).run()
    assert [record.message for record in caplog.records] == ["said 1"] * 3
    record = caplog.records[0]
    assert (record.name, record.levelno) == ("helper_tasks", logging.WARNING)
    assert vars(record)["model"] == "a"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no JSON\n", "a line that cannot be read: b'no JSON'"),
        ("[1]\n", "cannot be read"),
        ('{"log": {"name": "x"}}\n', "cannot be read"),
        ('{"error": ["EngineUnavailable"]}\n', "an error that cannot be read"),
        ('{"at": "' + "x" * 300, "a line of over 200 bytes"),
    ],
)
def test_an_answer_that_is_none_ends_the_helper(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper, "_LINE_BYTES", 200)
    with pytest.raises(HelperFailed, match=reason):
        Helper("lie", text=text).run()


def test_modules_of_the_working_folder_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "queue", "numpy", "serving"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('wrong module')")
    monkeypatch.chdir(tmp_path)
    assert Helper("echo").run() == {}
