"""A folder to put first on PYTHONPATH: a server that is started with it runs on asyncio's own event
loop, and notes each callback that takes more of a core than it may.

Time of the thread on a core counts: a callback that waits for the GIL, or for a core, holds nobody
up by itself. A garbage collection does not count for the callback in which it happens to fall. The
code of the server is the same on uvloop, whose callbacks cannot be timed.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

# Seconds of the thread on a core from which on a callback is noted.
NOTED = 0.002

_SITE = '''
"""Times the callbacks of the event loop of `convserve serve`."""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
import types
from asyncio import events

NOTED, NOTES = {noted!r}, {notes!r}
_run = events.Handle._run
_stacks = []
_collected = [0.0]


def _collects(phase, _):
    if threading.current_thread() is not threading.main_thread():
        return  # the loop runs there, and this thread has a clock of its own
    now = time.thread_time()
    _collected[0] += -now if phase == "start" else now


def _look(_, frame):
    _stacks.append(traceback.extract_stack(frame)[-4:])


def _timed(handle):
    _stacks.clear()
    _collected[0] = 0.0
    signal.setitimer(signal.ITIMER_REAL, NOTED)
    began = time.thread_time()
    try:
        return _run(handle)
    finally:
        seconds = time.thread_time() - began - _collected[0]
        signal.setitimer(signal.ITIMER_REAL, 0)
        if seconds > NOTED:
            stack = _stacks[0] if _stacks else []
            where = [f"{{os.path.basename(f.filename)}}:{{f.lineno}} {{f.name}}" for f in stack]
            text = json.dumps({{"seconds": seconds, "where": where}}) + "\\n"
            os.write(_notes, text.encode())


if "serve" in sys.orig_argv:
    # Open from the start: attacks take all descriptors.
    _notes = os.open(NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    plain = types.ModuleType("uvloop")
    plain.run = asyncio.run
    sys.modules["uvloop"] = plain
    signal.signal(signal.SIGALRM, _look)
    events.Handle._run = _timed
    gc.callbacks.append(_collects)
'''


@dataclass(frozen=True)
class Callback:
    """One that took long.

    seconds: of its thread on a core.
    where: its innermost calls soon after NOTED, as file:line and function; outermost first.
    """

    seconds: float
    where: list[str]

    def __str__(self) -> str:
        return f"{self.seconds * 1e3:.1f} ms in {' > '.join(self.where) or 'C'}"


class TimedLoop:
    """Times one server after another."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._notes = folder / "notes"
        self._folder = folder
        text = _SITE.format(noted=NOTED, notes=str(self._notes))
        (folder / "sitecustomize.py").write_text(text)

    @property
    def path(self) -> str:
        """What a server is to have in front of its PYTHONPATH."""
        return f"{self._folder}{os.pathsep}"

    def forget(self) -> None:
        """Begins anew."""
        if self._notes.exists():
            os.truncate(self._notes, 0)

    def longest(self) -> Callback | None:
        """The callback since then that took longest; None where none was noted."""
        if not self._notes.exists():
            return None
        noted = [Callback(**json.loads(line)) for line in self._notes.read_text().splitlines()]
        return max(noted, key=lambda one: one.seconds, default=None)
