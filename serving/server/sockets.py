"""The folder of the admin sockets: whoever may enter it may change the server."""

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from serving.server.config import StartError

# Bytes of a socket's path that the kernel takes.
_LONGEST_PATH = 107
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class AdminFolder:
    """A folder of mode 0700 for the sockets of one server, which is locked as long as the server
    lives: a second one that wants it is refused, and the sockets of one that was killed go.

    path: the folder.
    grpc, http: the sockets.
    """

    def __init__(self, path: Path | None, grpc_port: int) -> None:
        """Makes the folder, by default that of the gRPC port below the user's own. Raises
        StartError for a folder that others could have made or may enter."""
        self.path = path.absolute() if path is not None else _of_user() / str(grpc_port)
        self.grpc = self.path / "grpc.sock"
        self.http = self.path / "http.sock"
        for socket in (self.grpc, self.http):
            if len(os.fsencode(socket)) > _LONGEST_PATH:
                raise StartError(f"--admin-socket: {socket} has more than {_LONGEST_PATH} bytes")
        # The default one is the server's own, also where a killed server has left it.
        self._made = path is None or not self.path.exists()
        _make(self.path)
        self._descriptor = self._locked()
        self._remove_sockets()

    def _locked(self) -> int:
        """A descriptor that holds the lock of the folder."""
        while True:
            descriptor = _opened(self.path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                raise StartError(
                    f"--admin-socket: {self.path} is in use by another server"
                ) from error
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    return descriptor
            # The server before removed it meanwhile.
            os.close(descriptor)
            _make(self.path)

    def _remove_sockets(self) -> None:
        for socket in (self.grpc, self.http):
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(socket.lstat().st_mode):
                    raise StartError(f"--admin-socket: {socket} is there and no socket")
                socket.unlink()

    @contextlib.contextmanager
    def binding(self) -> Iterator[None]:
        """Sockets that are made within have mode 0600 from the beginning. Raises StartError where
        one is missing at the end."""
        mask = os.umask(0o177)
        try:
            yield
        except OSError as error:
            raise StartError(f"--admin-socket: {self.path}: {error.strerror}") from error
        finally:
            os.umask(mask)
        for socket in (self.grpc, self.http):
            if not socket.is_socket():
                raise StartError(f"--admin-socket: cannot listen on {socket}")

    def close(self) -> None:
        """Removes the sockets, and the folder where it was made here."""
        with contextlib.suppress(OSError, StartError):
            self._remove_sockets()
            if self._made:
                self.path.rmdir()
        os.close(self._descriptor)


def _of_user() -> Path:
    """A folder that only this user may enter: in XDG_RUNTIME_DIR where that is the user's, else in
    the folder for temporary files."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        found = Path(given).stat() if given.startswith("/") else None
    except OSError:
        found = None
    if found is not None and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        folder = Path(given) / "convserve"
    else:
        folder = _temporary() / f"convserve-{os.geteuid()}"
    _make(folder)
    os.close(_opened(folder))
    return folder


def _temporary() -> Path:
    """The folder for temporary files. Raises StartError where there is none to write to."""
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise StartError(
            "--admin-socket: neither XDG_RUNTIME_DIR nor a folder for temporary files can be "
            "written; --admin-socket FOLDER names another, --admin off does without"
        ) from error


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"--admin-socket: {path} cannot be made: {error.strerror}; --admin off does without"
        ) from error


def _opened(path: Path) -> int:
    """A descriptor of a folder that is the user's alone. Raises StartError."""
    try:
        descriptor = os.open(path, _FOLDER)
    except OSError as error:
        raise StartError(f"--admin-socket: {path}: {error.strerror}") from error
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(descriptor)
        raise StartError(
            f"--admin-socket: {path} must be of mode 700 and of the server's user "
            f"{os.geteuid()}, it is {stat.S_IMODE(found.st_mode):o} and of {found.st_uid}"
        )
    return descriptor
