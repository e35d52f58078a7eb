"""Folders for the time of a load."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serving.repository.temporary import TemporaryFolder

# Makes one, writes into it, and is killed.
_KILLED = """
import os, signal
from serving.repository.temporary import TemporaryFolder
(TemporaryFolder().path / "file").write_text("content")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_goes_with_all_that_it_holds(home: Path) -> None:
    folder = TemporaryFolder()
    (folder.path / "model").mkdir()
    assert folder.path.parent == home
    folder.close()
    assert list(home.iterdir()) == []


def test_the_next_one_removes_those_that_killed_processes_have_left(home: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED], check=False)
    [left] = home.iterdir()
    assert (left / "file").exists()
    folder = TemporaryFolder()
    assert list(home.iterdir()) == [folder.path]
    folder.close()


def test_one_in_use_and_what_is_none_stay(home: Path) -> None:
    first = TemporaryFolder()
    (home / "convserve-1000").mkdir()  # of the admin sockets
    (home / "convserve-load-link").symlink_to(home / "convserve-1000")
    second = TemporaryFolder()
    assert first.path.is_dir()
    first.close()
    second.close()
    assert {path.name for path in home.iterdir()} == {"convserve-1000", "convserve-load-link"}
