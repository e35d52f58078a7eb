"""Files that are written beside the calls: traces and the log file of the log settings."""

import contextlib
import logging
import os
import queue
import threading
from typing import NamedTuple

from prometheus_client import Counter

logger = logging.getLogger(__name__)

# Texts that wait for the thread. Larger bridges a longer pause of the disk and holds more memory;
# one that does not fit is lost and counted.
_MOST_WAITING = 10_000
# O_NONBLOCK: a pipe without a reader is an error at once.
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC


class _Text(NamedTuple):
    file: str
    content: str
    append: bool


class FileWriter:
    """Writes texts in a thread of its own, in their order: a slow, full or missing disk holds up no
    call. A text that cannot be written is lost and counted; the first one of a row with the same
    reason is logged.

    kind: what is written, for the log and as the label of `failures`.
    """

    def __init__(self, kind: str, failures: Counter) -> None:
        self._kind = kind
        self._failures = failures.labels(kind)
        self._waiting: queue.Queue[_Text | threading.Event] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        # The reason of the last failure; empty after a success.
        self._reason = ""

    def write(self, file: str, content: str, *, append: bool) -> None:
        """Has a text written, behind the others in the file or in their place. Returns at once and
        raises nothing."""
        if self._thread is None:
            # A daemon: a disk that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=f"write {self._kind}")
            self._thread.daemon = True
            self._thread.start()
        try:
            self._waiting.put_nowait(_Text(file, content, append))
        except queue.Full:
            self._failed(file, f"{_MOST_WAITING} texts wait to be written")

    def wait(self, seconds: float) -> None:
        """Returns when all that came before is written or lost, or after so many seconds."""
        if self._thread is None:
            return
        done = threading.Event()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(done)
            done.wait(seconds)

    def _run(self) -> None:
        while True:
            item = self._waiting.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                _write(item)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else None
                self._failed(item.file, reason or str(error))
            else:
                self._reason = ""

    def _failed(self, file: str, reason: str) -> None:
        self._failures.inc()
        if reason != self._reason:
            self._reason = reason
            logger.error(
                "file cannot be written",
                extra={"kind": self._kind, "file": file, "reason": reason},
            )


def check_writable(file: str) -> None:
    """Opens a file for writing, which makes it where it is missing. Raises OSError, ValueError."""
    os.close(os.open(file, _OPEN, 0o666))


def _write(text: _Text) -> None:
    mode = os.O_APPEND if text.append else os.O_TRUNC
    descriptor = os.open(text.file, _OPEN | mode, 0o666)
    try:
        left = memoryview(text.content.encode(errors="replace"))
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)
