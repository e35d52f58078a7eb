"""What lies in a repository: models, folders that are none, and every way in which files change."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.repository.layout import NO_MODEL, compare, scan, scan_model


def model(repository: Path, name: str = "m") -> Path:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    for file in ("config.pbtxt", "labels.names", "1/model.onnx", "1/manifest.json", "1/w.bin"):
        (folder / file).write_bytes(b"0123456789")
    return folder


def test_versions_are_numbered_folders(tmp_path: Path) -> None:
    folder = model(tmp_path)
    for name in ("0", "01", "10", "x", "2.0", "٣", "9" * 30):
        (folder / name).mkdir()
    assert list(scan_model(folder).versions) == [1, 10]


@pytest.mark.parametrize(
    "file", ["config.pbtxt", "labels.names", "1/model.onnx", "1/manifest.json", "1/w.bin"]
)
def test_a_file_replaced_by_one_of_its_size_and_time_is_seen(file: str, tmp_path: Path) -> None:
    path = model(tmp_path) / file
    before = scan(tmp_path)
    stat = path.stat()
    other = tmp_path / "other"
    other.write_bytes(b"9876543210")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert compare(before, scan(tmp_path)).changed == ("m",)


@pytest.mark.parametrize("file", ["config.pbtxt", "1/model.onnx"])
def test_a_file_written_over_with_its_time_put_back_is_seen(file: str, tmp_path: Path) -> None:
    path = model(tmp_path) / file
    before = scan(tmp_path)
    stat = path.stat()
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert compare(before, scan(tmp_path)).changed == ("m",)


def test_an_unchanged_repository_is_unchanged(tmp_path: Path) -> None:
    model(tmp_path)
    assert compare(scan(tmp_path), scan(tmp_path)).changed == ()


def test_a_folder_that_holds_something_else_is_no_model(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "lost+found" / "#123").mkdir(parents=True)
    found = scan(tmp_path)
    assert found["m"].is_model
    assert not found["lost+found"].is_model
    assert found["lost+found"].problem == NO_MODEL


def test_a_folder_with_a_config_or_a_version_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.pbtxt").touch()
    (tmp_path / "version" / "1").mkdir(parents=True)
    assert all(folder.is_model and not folder.problem for folder in scan(tmp_path).values())


def test_hidden_entries_and_files_are_passed_over(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "_building").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert list(scan(tmp_path)) == ["m"]


@pytest.mark.parametrize(
    "name", [b"m\xff", b"a\nb", b"\x1b[31mred", b"back\\slash", b"\xe2\x80\xae"]
)
def test_a_name_that_no_call_can_carry_is_a_problem_in_one_line(
    name: bytes, tmp_path: Path
) -> None:
    model(tmp_path)
    (model(tmp_path, "other")).rename(tmp_path / os.fsdecode(name))
    found = scan(tmp_path)
    [odd] = found.keys() - {"m"}
    assert odd.isprintable()
    assert "no name for a model" in found[odd].problem
    assert found[odd].problem.isprintable()
    assert not found["m"].problem


@pytest.mark.parametrize("target", ["round", "nowhere", "x" * 255 + "/" + "y" * 300])
def test_a_link_that_leads_nowhere_is_a_problem_of_its_own(target: str, tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / "round").symlink_to(target)
    (tmp_path / "m" / "2").symlink_to(target.replace("round", "2"))
    found = scan(tmp_path)
    assert "round: cannot be read: " in found["round"].problem
    assert list(found["m"].versions) == [1, 2]
    assert not found["m"].problem


def test_a_deep_tree_in_a_version_is_not_walked(tmp_path: Path) -> None:
    deep = model(tmp_path) / "1" / "d"
    at = os.open(deep.parent, os.O_RDONLY)
    try:
        for _ in range(1100):  # more than Python may nest calls
            os.mkdir("d", dir_fd=at)
            at, above = os.open("d", os.O_RDONLY, dir_fd=at), at
            os.close(above)
        os.close(at)
        assert not scan(tmp_path)["m"].problem
    finally:
        subprocess.run(["rm", "-rf", str(deep)], check=True)  # pytest cannot


def test_a_huge_folder_is_a_problem_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.repository.layout._MAX_ENTRIES", 100)
    monkeypatch.setattr("serving.repository.layout.MAX_VERSIONS", 10)
    for name in ("files", "versions", "good"):
        model(tmp_path, name)
    for number in range(101):
        (tmp_path / "files" / f"{number}.txt").touch()
    for number in range(2, 12):
        (tmp_path / "versions" / str(number)).mkdir()
    found = scan(tmp_path)
    assert "files: cannot be read: has more than 100 entries" in found["files"].problem
    assert "versions: expected at most 10 versions, got 11" in found["versions"].problem
    assert not found["good"].problem


def as_nobody(work: Callable[[], None]) -> None:
    """Runs `work` in a child process as a user who owns nothing."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(10001)
            os.setuid(10001)
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("closed", ["locked", "m/1"])
def test_a_folder_that_cannot_be_read_harms_nobody(closed: str, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("test_", "popen-", "pytest-")):
            folder.chmod(0o755)
    model(tmp_path)
    model(tmp_path, "good")
    model(tmp_path, "locked")
    (tmp_path / closed).chmod(0o700)

    def look() -> None:
        found = scan(tmp_path)
        assert set(found) == {"m", "good", "locked"}
        assert not found["good"].problem
        assert len(found["good"].versions[1]) == 3
        if closed == "locked":
            assert "locked: cannot be read: Permission denied" in found["locked"].problem
            assert found["locked"].is_model

    as_nobody(look)
