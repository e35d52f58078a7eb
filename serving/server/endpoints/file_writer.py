"""Files that are written beside the calls: traces and the log file of the log settings.

Callers name them, so they lie in one folder, which the operator names, under plain names. No link
is followed, nothing but a regular file of our own is written, and a file that is there already is
written only where it begins as one of ours does.
"""

import contextlib
import logging
import os
import queue
import re
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from serving.base.counting.sums import Tally
from serving.base.errors import InvalidInput, quoted
from serving.base.folders import why_no_folder
from serving.server.config import StartError

logger = logging.getLogger(__name__)

# Texts that wait for the thread, and their characters. Larger bridges a longer pause of the disk
# and holds more memory; a text that does not fit is lost and counted.
_MOST_WAITING = 10_000
_MOST_WAITING_CHARACTERS = 64 << 20
# Bytes at which a file that grows is set aside as NAME.1, in the place of the former one. Larger
# keeps more lines and takes more of the disk: two files of this size.
_LARGEST = 64 << 20
# Entries of the folder with which no file is made in it any more: callers may name many.
_MOST_ENTRIES = 1000
# Seconds after which a disk counts as one that hangs. Longer holds up the answer to a change of
# settings, shorter refuses a slow disk.
WRITE_SECONDS = 0.2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a pipe without a reader is an error at once.
_FILE = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FilesFolder:
    """The folder for the files that callers name.

    path: None where the operator has named none.
    """

    def __init__(self, path: Path | None) -> None:
        """Raises StartError where there is no such folder."""
        self._path = path
        if path is not None and not path.is_dir():
            raise StartError(f"--files-dir: {path}: {why_no_folder(path)}")

    def check_name(self, what: str, name: str) -> None:
        """Raises InvalidInput for a name that is not plain, and for every name where there is no
        folder. Empty stands for no file."""
        if not name:
            return
        if self._path is None:
            raise InvalidInput(f"{what}: no file is written: --files-dir DIR names a folder")
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"{what}: expected a plain name in --files-dir (letters, digits, '.', '_', '-', up "
                f"to 100), got {quoted(name)}"
            )

    def open(self, name: str, begins: bytes) -> int:
        """A descriptor that appends to a file, which is made where it is missing. Raises OSError
        for one that is not a regular file of ours, or does not begin as ours do."""
        assert self._path is not None
        folder = os.open(self._path, _FOLDER)
        try:
            descriptor = _opened(folder, name, begins)
            if os.fstat(descriptor).st_size >= _LARGEST:
                os.close(descriptor)
                os.close(_opened(folder, f"{name}.1", begins))
                os.rename(name, f"{name}.1", src_dir_fd=folder, dst_dir_fd=folder)
                descriptor = _opened(folder, name, begins)
            return descriptor
        finally:
            os.close(folder)


def _opened(folder: int, name: str, begins: bytes) -> int:
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        if len(os.listdir(folder)) >= _MOST_ENTRIES:
            raise OSError(0, f"its folder has {_MOST_ENTRIES} entries") from None
        return os.open(name, _FILE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    found = os.fstat(descriptor)
    problem = ""
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        problem = "it is not a file of one name"
    elif found.st_uid != os.geteuid():
        problem = f"it is of user {found.st_uid}"
    elif os.pread(descriptor, len(begins), 0) != begins[: found.st_size]:
        problem = "another file has this name"
    if problem:
        os.close(descriptor)
        raise OSError(0, problem)
    return descriptor


class _Text(NamedTuple):
    file: str
    parts: Sequence[str]
    append: bool


class _Check(NamedTuple):
    """A file that is to be opened only. `found` gets the reason where that fails."""

    file: str
    found: "queue.Queue[str]"


class FileWriter:
    """Writes texts in a thread of its own, in their order: a slow, full or missing disk holds up no
    call. A text that cannot be written is lost and counted; the first one of a row with the same
    reason is logged.

    kind: what is written, for the log and as the label of `failures`.
    begins: the first bytes of every file.
    """

    def __init__(self, kind: str, folder: FilesFolder, begins: bytes, failures: Tally) -> None:
        self._kind = kind
        self._folder = folder
        self._begins = begins
        self._failures = failures.labels(kind)
        self._waiting: queue.Queue[_Text | _Check | threading.Event] = queue.Queue(_MOST_WAITING)
        self._characters = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # The reason of the last failure; empty after a success.
        self._reason = ""

    def check(self, file: str) -> str:
        """Opens a file, which makes it where it is missing. Returns why that fails. Waits for
        WRITE_SECONDS at most."""
        self._start()
        found: queue.Queue[str] = queue.Queue()
        try:
            self._waiting.put_nowait(_Check(file, found))
            return found.get(timeout=WRITE_SECONDS)
        except (queue.Full, queue.Empty):
            return "the disk does not answer"

    def write(self, file: str, parts: Sequence[str], *, append: bool) -> None:
        """Has a text written, behind the others in the file or in their place. Returns at once and
        raises nothing."""
        self._start()
        size = sum(map(len, parts))
        with self._lock:
            fits = self._characters + size <= _MOST_WAITING_CHARACTERS
            if fits:
                self._characters += size
        try:
            if not fits:
                raise queue.Full
            self._waiting.put_nowait(_Text(file, parts, append))
        except queue.Full:
            if fits:
                self._written(size)
            self.lost(file, "too much waits to be written")

    def lost(self, file: str, reason: str) -> None:
        """Counts a text that is not written."""
        self._failures.inc()
        if reason != self._reason:
            self._reason = reason
            logger.error(
                "file cannot be written",
                extra={"kind": self._kind, "file": file, "reason": reason},
            )

    def wait(self, seconds: float = WRITE_SECONDS) -> None:
        """Returns when all that came before is written or lost, or after so many seconds."""
        if self._thread is None:
            return
        done = threading.Event()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(done)
            done.wait(seconds)

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: a disk that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=f"write {self._kind}")
            self._thread.daemon = True
            self._thread.start()

    def _written(self, size: int) -> None:
        with self._lock:
            self._characters -= size

    def _run(self) -> None:
        while True:
            item = self._waiting.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            text = _Text(item.file, (), append=True) if isinstance(item, _Check) else item
            reason = ""
            try:
                self._write(text)
            except (OSError, ValueError) as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if isinstance(item, _Check):
                item.found.put(reason)
                continue
            self._written(sum(map(len, text.parts)))
            if reason:
                self.lost(text.file, reason)
            else:
                self._reason = ""

    def _write(self, text: _Text) -> None:
        descriptor = self._folder.open(text.file, self._begins)
        try:
            if not text.append:
                os.ftruncate(descriptor, 0)
            left = memoryview("".join(text.parts).encode(errors="replace"))
            while left:
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)
