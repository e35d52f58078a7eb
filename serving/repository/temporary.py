"""Folders for the time of a load. Those that a killed process has left go with the next one."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_PREFIX = "convserve-load-"


class TemporaryFolder:
    """A folder of its own in the one for temporary files, until `close`.

    path: its place.
    """

    def __init__(self) -> None:
        """Makes it. Raises OSError."""
        home = Path(tempfile.gettempdir())
        for left in home.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                remove_unused(left)
        self._held = ExitStack()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
            try:
                self._held.enter_context(locked(self.path))
            except (FileNotFoundError, BlockingIOError):
                continue  # another process took it for one that was left
            except OSError:
                pass  # a file system without locks, where nobody can take it for one
            return

    def close(self) -> None:
        """Removes it, with all that it holds."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._held.close()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Has the folder alone. Raises OSError where another load has it, or has just removed it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise BlockingIOError
        yield
    finally:
        os.close(descriptor)


def remove_unused(folder: Path) -> None:
    """Removes a folder of this user's. Raises OSError where a load has it."""
    with locked(folder):
        if folder.lstat().st_uid == os.geteuid():
            shutil.rmtree(folder)
