"""Lines that native libraries print, as log records.

ONNX Runtime, OpenVINO and others write to the process's standard output and error themselves. While
`logged` is active both end in a pipe, whose lines a thread logs.
"""

import contextlib
import faulthandler
import fcntl
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from io import TextIOWrapper

# Bytes of the pipe. A library that prints more at once loses the rest: if it waited, it might hold
# the GIL that the logging thread needs. Larger loses less and takes more kernel memory.
_PIPE_BYTES = 1 << 20
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# "2026-01-01 00:00:00.0 [W:onnxruntime:Default, file.cc:1 Function] text"
_ONNXRUNTIME = re.compile(
    r"^\S+ \S+ \[(?P<level>[VIWEF]):(?P<name>onnxruntime):[^\]]*\] (?P<text>.*)"
)
_LEVELS = {
    "V": logging.DEBUG,
    "I": logging.INFO,
    "W": logging.WARNING,
    "E": logging.ERROR,
    "F": logging.CRITICAL,
}


@contextlib.contextmanager
def logged() -> Iterator[TextIOWrapper]:
    """Sends standard output and error into the log until the end of the block. Yields the original
    standard error, for the log itself to be written to.

    After a crash of the process, faulthandler writes Python's stack to it. The last lines of the
    library that crashed may be lost.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = os.dup(1), os.dup(2)
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):  # above this user's limit
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    os.set_blocking(writing, False)
    terminal = open(os.dup(kept[1]), "w", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123, SIM115
    reader = threading.Thread(target=_log_lines, args=(reading,), name="console", daemon=True)
    reader.start()
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.close(writing)
    faulthandler.enable(terminal)
    try:
        yield terminal
    finally:
        faulthandler.disable()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        for number, original in enumerate(kept, start=1):
            os.dup2(original, number)
            os.close(original)
        # With the last writer gone the thread reads to the end. A child may hold the pipe open.
        reader.join(timeout=1.0)


def _log_lines(reading: int) -> None:
    with open(reading, encoding="utf-8", errors="backslashreplace") as lines:
        for line in lines:
            text = _COLOURS.sub("", line).strip()
            if not text:
                continue
            found = _ONNXRUNTIME.match(text)
            if found is None:
                logging.getLogger("console").warning("%s", text)
            else:
                logger = logging.getLogger(found["name"])
                logger.log(_LEVELS[found["level"]], "%s", found["text"])
