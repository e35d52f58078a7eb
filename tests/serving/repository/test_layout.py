"""What lies in a repository: models, folders that are none, and every way in which files change."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.repository.layout import NO_MODEL, compare, model_names, scan, scan_model


def model(repository: Path, name: str = "m") -> Path:
    folder = repository / name
    (folder / "1" / "data").mkdir(parents=True)
    for file in ("config.pbtxt", "labels.names", "1/model.onnx", "1/manifest.json", "1/data/w.bin"):
        (folder / file).write_bytes(b"0123456789")
    return folder


def test_versions_are_numbered_folders(tmp_path: Path) -> None:
    folder = model(tmp_path)
    for name in ("0", "01", "10", "x", "2.0", "٣", "9" * 30):
        (folder / name).mkdir()
    assert list(scan_model(folder).versions) == [1, 10]


@pytest.mark.parametrize(
    "file", ["config.pbtxt", "labels.names", "1/model.onnx", "1/manifest.json", "1/data/w.bin"]
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


def test_names_that_no_wire_can_carry_are_passed_over(tmp_path: Path) -> None:
    model(tmp_path)
    (tmp_path / os.fsdecode(b"m\xff")).mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "_building").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "round").symlink_to("round")
    assert model_names(tmp_path) == ["m"]


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
@pytest.mark.parametrize("closed", ["locked", "m/1", "m/1/data"])
def test_a_folder_that_cannot_be_read_harms_nobody(closed: str, tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    model(tmp_path)
    model(tmp_path, "good")
    model(tmp_path, "locked")
    (tmp_path / closed).chmod(0o700)

    def look() -> None:
        found = scan(tmp_path)
        assert set(found) == {"m", "good", "locked"}
        assert not found["good"].problem
        assert len(found["good"].versions[1]) == 4
        if closed == "locked":
            assert "locked: cannot be read: Permission denied" in found["locked"].problem
            assert found["locked"].is_model

    as_nobody(look)
