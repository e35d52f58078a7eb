"""Processes that this one starts: they end with it, give way to it, and are told how they ended."""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# Of -1,000 to 1,000: where memory runs out, the kernel ends the process with the largest first.
_FIRST_TO_GO = "1000"


def end_with_parent(parent: int) -> None:
    """Called in the child: ends it with its parent, however that ends. On Linux it ends already
    with the thread that started it.

    parent: the process that started it.
    """
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before the line above


def go_first() -> None:
    """Called in the child: has the kernel end it, and no other, where memory runs out."""
    with contextlib.suppress(OSError):  # no such file on this system
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"it ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it was ended by signal {-status}"
