"""Progress of a phase on stderr: a line that renews itself on a terminal, else a line now and then.

Stdout is left to the report.
"""

import sys
from collections import deque

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from loadtest.results import OK, Records
from serving.base.machine.terminal import is_quiet

# Seconds over which the figures are taken.
_WINDOW = 3.0
# Seconds between two lines, on a terminal and elsewhere.
_REFRESH = 0.5
_PLAIN_EVERY = 5.0
# Width of the bar in characters.
_BAR = 12


class Progress:
    """Shows elapsed time, rate, p50 and p99 of the last seconds, and requests and errors so far."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._terminal = self._console.is_terminal
        # Full and empty cells of a bar that the terminal can show.
        wide = self._console.encoding.lower().startswith("utf")
        self._cells = ("█", "░") if wide else ("#", ".")
        self._live: Live | None = None
        self._shown = 0.0
        self._label = ""
        self._warmup = self._seconds = 0.0
        self._recent: deque[tuple[float, Records]] = deque()
        self._sent = self._errors = 0

    def begin(self, label: str, warmup: float, seconds: float) -> None:
        """A phase begins that lasts `seconds`, the warm-up included."""
        self._label, self._warmup, self._seconds = label, warmup, seconds
        self._recent.clear()
        self._sent = self._errors = 0
        self._shown = 0.0
        if self._terminal and not is_quiet():
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def tick(self, elapsed: float, records: Records) -> None:
        """Shows a new line when it is due."""
        if len(records):
            self._recent.append((elapsed, records))
            self._sent += len(records)
            self._errors += int((records["status"] != OK).sum())
        while self._recent and self._recent[0][0] < elapsed - _WINDOW:
            self._recent.popleft()
        if elapsed - self._shown < (_REFRESH if self._terminal else _PLAIN_EVERY):
            return
        self._shown = elapsed
        line = self._line(elapsed)
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        elif not is_quiet():
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def end(self) -> None:
        """Removes the line of a terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, elapsed: float) -> str:
        parts = [self._label, f"{min(elapsed, self._seconds):.0f}/{self._seconds:.0f} s"]
        if self._terminal:
            done = round(min(elapsed / max(self._seconds, 1e-9), 1.0) * _BAR)
            full, empty = self._cells
            parts.insert(1, full * done + empty * (_BAR - done))
        if elapsed < self._warmup:
            parts.append("warm-up")
        if self._recent:
            records = np.concatenate([r for _, r in self._recent])
            answered = records[records["status"] == OK]
            span = max(min(elapsed, _WINDOW), 1e-9)
            parts.append(f"{len(answered) / span:,.0f} requests/s")
            if len(answered):
                p50, p99 = np.percentile(answered["latency"], (50, 99)) * 1e3
                parts.append(f"p50 {p50:.2f} ms  p99 {p99:.2f} ms")
        parts.append(f"{self._sent:,} sent, {self._errors:,} errors")
        return "  ".join(parts)
