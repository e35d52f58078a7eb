"""The folder of the admin sockets: nobody else gets in, and one server at a time."""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serving.server.config import StartError
from serving.server.sockets import AdminFolder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin"


@pytest.fixture(autouse=True)
def no_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture
def folder(path: Path) -> Iterator[AdminFolder]:
    made = AdminFolder(path, 8001)
    yield made
    made.close()


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def bind(folder: AdminFolder) -> None:
    with folder.binding():
        for path in (folder.grpc, folder.http):
            listening(path).close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_sockets_are_the_users_alone(folder: AdminFolder) -> None:
    mask = os.umask(0)
    try:
        bind(folder)
        assert os.umask(0) == 0
    finally:
        os.umask(mask)
    assert mode(folder.path) == 0o700
    assert [mode(path) for path in (folder.grpc, folder.http)] == [0o600, 0o600]


def test_default_is_a_folder_of_the_user_by_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = f"convserve-{os.geteuid()}"
    with closing(AdminFolder(None, 8001)) as made:
        assert made.path == tmp_path / user / "8001"
        assert mode(tmp_path / user) == 0o700
        with closing(AdminFolder(None, 8002)) as other:
            assert other.path == tmp_path / user / "8002"
    assert not made.path.exists()
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with closing(AdminFolder(None, 8001)) as made:
        assert made.path == runtime / "convserve" / "8001"
    for unusable in ("relative", str(tmp_path / "gone")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unusable)
        with closing(AdminFolder(None, 8001)) as made:
            assert made.path == tmp_path / user / "8001"
    runtime.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with closing(AdminFolder(None, 8001)) as made:
        assert made.path == tmp_path / user / "8001"


@pytest.mark.parametrize("fault", ["open", "group", "link", "file", "foreign", "no parent"])
def test_folder_that_others_may_enter_or_have_made_is_refused(
    fault: str, path: Path, tmp_path: Path
) -> None:
    match fault:
        case "open":
            path.mkdir(mode=0o755)
        case "group":
            path.mkdir(mode=0o700)
            path.chmod(0o710)
        case "link":
            (tmp_path / "real").mkdir(mode=0o700)
            path.symlink_to(tmp_path / "real")
        case "file":
            path.write_text("")
        case "foreign":
            if os.geteuid() != 0:
                pytest.skip("only root may give a folder away")
            path.mkdir(mode=0o700)
            os.chown(path, 10001, 10001)
        case "no parent":
            path = tmp_path / "no" / "parent"
    with pytest.raises(StartError, match="--admin-socket: "):
        AdminFolder(path, 8001)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_default_folder_that_somebody_else_has_made_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / f"convserve-{os.geteuid()}"
    theirs.mkdir(mode=0o777)
    os.chown(theirs, 10001, 10001)
    with pytest.raises(StartError, match="of the server's user 0"):
        AdminFolder(None, 8001)


def test_second_server_is_refused_as_long_as_the_first_lives(path: Path) -> None:
    first = AdminFolder(path, 8001)
    with pytest.raises(StartError, match="in use by another server"):
        AdminFolder(path, 8002)
    first.close()
    AdminFolder(path, 8002).close()


def test_sockets_of_a_server_that_was_killed_go(path: Path) -> None:
    killed = AdminFolder(path, 8001)
    bind(killed)
    os.close(killed._descriptor)
    with closing(AdminFolder(path, 8001)) as after:
        assert not after.grpc.exists()
        bind(after)
    assert path.exists()  # it was there before
    assert not list(path.iterdir())


def test_the_default_folder_of_a_server_that_was_killed_goes_with_the_next_one() -> None:
    killed = AdminFolder(None, 8001)
    bind(killed)
    os.close(killed._descriptor)  # all that a kill does
    after = AdminFolder(None, 8001)
    assert after.path == killed.path
    after.close()
    assert not after.path.exists()


def test_what_is_no_socket_is_not_removed(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "http.sock").write_text("mine")
    with pytest.raises(StartError, match="is there and no socket"):
        AdminFolder(path, 8001)
    assert (path / "http.sock").read_text() == "mine"


def test_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="more than 107 bytes"):
        AdminFolder(tmp_path / ("x" * 100), 8001)


def test_socket_that_is_missing_is_said(folder: AdminFolder) -> None:
    with pytest.raises(StartError, match=r"cannot listen on .*http\.sock"), folder.binding():
        listening(folder.grpc).close()


def test_user_without_a_folder_to_write_to_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(StartError, match=r"folder for temporary files.*--admin off"):
        AdminFolder(None, 8001)
