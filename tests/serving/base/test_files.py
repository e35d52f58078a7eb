"""Files that others wrote: what may be a name, which links are followed, what is opened at all."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.base.files import (
    find_file,
    is_plain_name,
    open_file,
    own_folder,
    read_file,
    sha256,
    write_whole,
)
from serving.base.text import escaped

OUTSIDE = [
    *("", ".", "..", "/etc/passwd", "../x", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[2J", "\udcff"),
    *("\u202e", "x" * 256, "é" * 128),
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_is_more_than_a_name_is_refused(name: str, tmp_path: Path) -> None:
    assert not is_plain_name(name)
    with pytest.raises(OSError, match="is no plain name"):
        find_file(tmp_path, name)


@pytest.mark.parametrize("name", ["model.onnx", "model v2 (1).onnx", "..data", "é" * 127, "模型"])
def test_names_that_people_give_are_plain(name: str) -> None:
    assert is_plain_name(name)


def test_a_link_may_end_in_its_folder_and_nowhere_else(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    (home / "deeper").mkdir(parents=True)
    other.mkdir()
    for file in (home / "own", home / "deeper" / "own", other / "secret"):
        file.write_text("x")
    (home / "within").symlink_to("deeper/own")
    (home / "out").symlink_to("../other/secret")
    (home / "absolute").symlink_to(other / "secret")
    (home / "deeper" / "up").symlink_to("../own")
    assert find_file(home, "within") == home / "deeper" / "own"
    for name in ("out", "absolute"):
        with pytest.raises(OSError, match="leads out of its folder"):
            find_file(home, name)
    with pytest.raises(OSError, match="leads out of its folder"):
        find_file(home / "deeper", "up")
    assert find_file(home / "deeper", "up", home) == home / "own"


def test_files_are_found_as_kubernetes_mounts_them_and_in_a_folder_that_is_a_link(
    tmp_path: Path,
) -> None:
    mount = tmp_path / "mount"
    (mount / "..2026_01").mkdir(parents=True)
    (mount / "..2026_01" / "config.pbtxt").write_text("x")
    (mount / "..data").symlink_to("..2026_01")
    (mount / "config.pbtxt").symlink_to("..data/config.pbtxt")
    (tmp_path / "model").symlink_to(mount)
    for folder in (mount, tmp_path / "model"):
        assert read_file(find_file(folder, "config.pbtxt")) == b"x"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, folder, circle, device])
def test_what_is_no_file_is_refused_at_once(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x")
    for read in (open_file, read_file, sha256):
        with pytest.raises(OSError, match=r"Is a directory|no regular file|symbolic links"):
            read(tmp_path / "x")
    with pytest.raises(OSError, match=r"Is a directory|no regular file|symbolic links|leads out"):
        find_file(tmp_path, "x")


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    os.truncate(tmp_path / "x", 1 << 40)
    with pytest.raises(OSError, match="has more than 10 bytes"):
        read_file(tmp_path / "x", 10)
    os.truncate(tmp_path / "x", 10)
    assert read_file(tmp_path / "x", 10) == bytes(10)


def test_a_file_that_cannot_be_written_is_named_and_the_former_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        write_whole(tmp_path / "no" / "page.html", b"new")
    assert missing.value.filename == str(tmp_path / "no" / "page.html")
    page = tmp_path / "page.html"
    page.write_text("former")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(page, b"new")
    assert page.read_text() == "former"
    assert list(tmp_path.iterdir()) == [page]


def test_a_new_cache_is_its_owners_alone(tmp_path: Path) -> None:
    assert own_folder(tmp_path / "a" / "cache") == tmp_path / "a" / "cache"
    assert (tmp_path / "a" / "cache").stat().st_mode & 0o777 == 0o700
    (tmp_path / "a" / "cache").chmod(0o755)
    assert own_folder(tmp_path / "a" / "cache") == tmp_path / "a" / "cache"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o2775, 0o770])
def test_where_others_may_write_the_cache_is_a_folder_of_its_own(mode: int, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    own = own_folder(shared)
    assert own.parent == shared
    assert own.stat().st_mode & 0o777 == 0o700
    assert own_folder(shared) == own
    own.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        own_folder(shared)
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="others may write"):
        own_folder(shared)


def test_control_characters_are_spelled_out() -> None:
    assert escaped("plain é 模") == "plain é 模"
    assert escaped("\x1b[31mred\r\x9b\u202e\udcff") == r"\x1b[31mred\r\x9b\u202e\udcff"
    assert escaped("two\nlines\tand") == "two\nlines\tand"
