"""What could not be sent: counted, and logged now and then."""

import logging
import re
import threading
import time
from typing import Literal, NamedTuple

from serving.base.counting.sums import Tally

logger = logging.getLogger(__name__)

Signal = Literal["spans", "metrics"]

# The reason at the end of the server.
ENDED = "the server ended before they were sent"
# Seconds between two log lines on one signal. Longer says later that a collector is gone, shorter
# fills the log while it is.
_LOG_SECONDS = 60.0
# Characters of a reason; those of a broken certificate have 300.
_SHOWN = 500
# The query of a URL, which may hold a key.
_QUERY = re.compile(r"\?[^\s'\")]+")
_SDK = logging.getLogger("opentelemetry")


class _Said(NamedTuple):
    """What the log knows of a signal.

    at: its last line, monotonic seconds.
    unsaid: lost since then.
    reason: of the first of these.
    """

    at: float
    unsaid: int = 0
    reason: str = ""


class Losses:
    """Counts the spans, and the exports of metrics, that are lost. Every thread may."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._lock = threading.Lock()
        self._said: dict[Signal, _Said] = {}
        for signal in ("spans", "metrics"):
            tally.labels(signal)

    def count(self, signal: Signal, number: int, reason: str) -> None:
        """Counts `number` of them; the log says so at most once a minute."""
        self._tally.labels(signal).inc(number)
        now = time.monotonic()
        with self._lock:
            said = self._said.get(signal, _Said(now - _LOG_SECONDS))
            unsaid, reason = said.unsaid + number, said.reason or reason
            if now - said.at < _LOG_SECONDS:
                self._said[signal] = _Said(said.at, unsaid, reason)
                return
            self._said[signal] = _Said(now)
        _log(signal, unsaid, reason)

    def log(self) -> None:
        """Logs at the end of the server those of which no line tells yet."""
        with self._lock:
            left = [*self._said.items()]
            self._said.clear()
        for signal, said in left:
            if said.unsaid:
                _log(signal, said.unsaid, said.reason)


def _log(signal: Signal, lost: int, reason: str) -> None:
    extra = {"signal": signal, "lost": lost, "reason": _QUERY.sub("?...", reason)[:_SHOWN]}
    logger.warning("telemetry lost", extra=extra)


class SdkWords(logging.Handler):
    """Takes the log lines of the SDK, of which a collector that is gone makes one a second. The
    first words of an export are the reason why it failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._words = threading.local()
        for handler in [*_SDK.handlers]:
            if isinstance(handler, SdkWords):
                _SDK.removeHandler(handler)
        _SDK.addHandler(self)
        _SDK.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Adds a line of the SDK."""
        self.add(record.getMessage())

    def add(self, words: str) -> None:
        """Keeps the first words of this thread."""
        if not getattr(self._words, "first", ""):
            self._words.first = words

    def listen(self) -> None:
        """Begins an export on this thread."""
        self._words.first = ""

    def heard(self) -> str:
        """The first words since then; empty where there were none."""
        first: str = getattr(self._words, "first", "")
        return first
