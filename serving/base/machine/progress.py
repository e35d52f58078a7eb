"""How far long work has come: a bar on a terminal, elsewhere a line now and then.

Under torchrun the first process alone speaks. Work inside of other work is silent: the outer one
knows how much is left.
"""

import functools
import logging
import sys
import time
from types import TracebackType

import rich.progress
from rich.console import Console
from rich.text import Text

from serving.base.machine.terminal import speaks
from serving.base.text import escaped

log = logging.getLogger(__name__)

# Seconds between two lines where there is no terminal; the first comes sooner.
_EVERY_SECONDS = 10.0
_FIRST_SECONDS = 3.0


def duration(seconds: float) -> str:
    """Seconds as a person says them: "8 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


class TerminalLog(logging.StreamHandler):  # type: ignore[type-arg]
    """Log lines on standard error; on a terminal they stand above the bar."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        console = _console()
        if console is None:
            super().emit(record)
        else:
            console.print(Text(self.format(record)), soft_wrap=True)


class Progress:
    """Work of `total` steps of a unit, in a `with` block. A `total` of None is not known.

    `said` adds a text, such as the time that is left for more than this work.
    """

    _outermost: "Progress | None" = None
    # When the last line was written, by any work, where there is no terminal.
    _told = 0.0

    def __init__(self, title: str, total: int | None, unit: str = "images") -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.done = 0
        self.said = ""
        self._began = 0.0
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> "Progress":
        self._began = time.monotonic()
        if Progress._outermost is None and speaks():
            Progress._outermost = self
            console = _console()
            if console is not None:
                self._bar = _bar(console)
                self._task = self._bar.add_task(self.title, total=self.total, told="")
                self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if Progress._outermost is self:
            Progress._outermost = None

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float | None:
        """Seconds to the end at the rate so far; None where it cannot be known."""
        if self.total is None or not self.done:
            return None
        return self.seconds / self.done * max(0, self.total - self.done)

    def advance(self, count: int = 1) -> None:
        """`count` more steps are done."""
        self.done += count
        if Progress._outermost is not self:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, told=", ".join(self._words()))
            return
        now = time.monotonic()
        if self.seconds >= _FIRST_SECONDS and now - Progress._told >= _EVERY_SECONDS:
            Progress._told = now
            of = "" if self.total is None else f" of {self.total}"
            words = ", ".join([f"{self.done}{of} {self.unit}", *self._words()])
            _tell(f"{self.title}: {words}")

    def _words(self) -> list[str]:
        """The rate, the time left and what else is said."""
        rate = self.done / max(self.seconds, 1e-9)
        words = [f"{rate:.3g} {self.unit}/s" if rate < 10 else f"{rate:.0f} {self.unit}/s"]
        if self.left is not None:
            words.append(f"{duration(self.left)} left")
        return [*words, self.said] if self.said else words


def _tell(line: str) -> None:
    """To the log, or where the command has none to standard error."""
    if logging.getLogger().handlers:
        log.info("%s", line)
    else:
        print(escaped(line), file=sys.stderr, flush=True)  # noqa: T201


@functools.cache
def _console() -> Console | None:
    """The terminal that standard error is; None where it is none, or one that cannot move up."""
    if not sys.stderr.isatty():
        return None
    console = Console(stderr=True)
    return None if console.is_dumb_terminal else console


def _bar(console: Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[told]}", markup=False),
        console=console,
        transient=True,
        # Log lines go through the console; standard output is for results.
        redirect_stdout=False,
        redirect_stderr=False,
    )
