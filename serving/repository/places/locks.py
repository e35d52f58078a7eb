"""Locks on files and folders, which go with the process that has them."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.base.storage.messages import StorageError

# Seconds between two tries to get at what another process changes.
_AGAIN = 0.1
# Seconds for which another process may have it. Longer waits where it hangs, shorter fails where it
# fetches a large model.
_PATIENCE = 120.0


@contextmanager
def alone(path: Path, stopped: Callable[[], bool]) -> Iterator[None]:
    """While this is held nobody else holds this file. Raises StorageError when it is stopped or
    others hold it for long, OSError where it cannot be written."""
    ends = time.monotonic() + _PATIENCE
    with path.open("w") as file:
        while not _taken(file.fileno(), fcntl.LOCK_EX):
            if stopped():
                raise StorageError("given up, as this process ends")
            if time.monotonic() > ends:
                raise StorageError(f"others have been changing the cache for {_PATIENCE:.0f} s")
            time.sleep(_AGAIN)
        yield


@contextmanager
def marked(folder: Path, *, shared: bool = False) -> Iterator[bool]:
    """Marks a folder as in use, unless others have; whether it could be. Raises OSError where there
    is no folder.

    shared: others may mark it so too.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _taken(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _taken(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
