"""Files that are followed: what is taken over, and what is not."""

import logging
from pathlib import Path

import pytest

from serving.base.metrics import FrontMetrics
from serving.server.access.followed import BadFile, Followed
from serving.server.config import StartError

FAILURES = FrontMetrics().access_failures


def number(text: str) -> int:
    if not text.strip().isdecimal():
        raise BadFile(f"expected a number, got {text!r}")
    return int(text)


def followed(path: Path) -> Followed[int]:
    return Followed("--file", path, number, FAILURES)


def looked(file: Followed[int]) -> bool:
    """Two looks, between which the file stands still."""
    take = file.follow() or file.follow()
    if take is not None:
        take()
    return take is not None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("1")
    return file


def test_new_content_is_taken_over_in_one_step(path: Path) -> None:
    file, told = followed(path), list[int]()
    file.changed = told.append
    assert not looked(file)
    path.write_text("20")
    assert file.follow() is None
    take = file.follow()
    assert (file.content, told) == (1, [])
    assert take is not None
    take()
    assert (file.content, told) == (20, [20])
    assert not looked(file)


def test_half_written_file_is_not_read_although_its_half_is_in_order(path: Path) -> None:
    file = followed(path)
    for text in ("2", "20", "205"):
        path.write_text(text)
        assert file.follow() is None
    assert file.content == 1
    assert looked(file)
    assert file.content == 205


def test_link_that_leads_elsewhere_is_followed(tmp_path: Path) -> None:
    """As Kubernetes changes a mounted secret."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "file").write_text(version)
    data = tmp_path / "data"
    data.symlink_to("1")
    (tmp_path / "file").symlink_to("data/file")
    file = followed(tmp_path / "file")
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").replace(data)
    assert looked(file)
    assert file.content == 2


@pytest.mark.parametrize("spoil", ["text", "gone", "folder", "open", "foreign", "large"])
def test_last_good_content_stays_and_the_fault_is_told_once(
    spoil: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = followed(path)
    before = FAILURES.labels("--file").value
    if spoil == "text":
        path.write_text("many")
    elif spoil == "open":
        path.write_text("20")
        path.chmod(0o666)
    elif spoil == "foreign":
        path.write_bytes("2".encode("utf-16"))
    elif spoil == "large":
        path.write_text("2" * (2 << 20))
    else:
        path.unlink()
    if spoil == "folder":
        path.mkdir()
    with caplog.at_level(logging.ERROR):
        assert not looked(file)
        assert not looked(file)
    assert file.content == 1
    assert FAILURES.labels("--file").value == before + 1
    [line] = caplog.records
    assert str(path) in line.__dict__["reason"]


def test_server_does_not_start_with_a_bad_file(path: Path) -> None:
    path.write_text("x")
    with pytest.raises(StartError, match=f"--file: {path}: expected a number, got 'x'"):
        followed(path)
    with pytest.raises(StartError, match="No such file"):
        followed(path.parent / "none")
