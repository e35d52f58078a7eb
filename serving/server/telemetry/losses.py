"""What could not be sent: counted, and logged now and then."""

import logging
import threading
import time
from typing import Literal

from serving.base.counting.sums import Tally

logger = logging.getLogger(__name__)

Signal = Literal["spans", "metrics"]

# Seconds between two log lines on one signal. Longer says later that a collector is gone, shorter
# fills the log while it is.
_LOG_SECONDS = 60.0
# Characters of a reason.
_SHOWN = 300
_SDK = logging.getLogger("opentelemetry")


class Losses:
    """Counts the spans, and the exports of metrics, that are lost. Every thread may."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._lock = threading.Lock()
        # By signal: lost since its last line, and when that was, monotonic seconds.
        self._unsaid: dict[Signal, int] = {}
        self._said: dict[Signal, float] = {}
        for signal in ("spans", "metrics"):
            tally.labels(signal)

    def count(self, signal: Signal, number: int, reason: str) -> None:
        """Counts `number` of them; the log says so at most once a minute."""
        self._tally.labels(signal).inc(number)
        now = time.monotonic()
        with self._lock:
            self._unsaid[signal] = unsaid = self._unsaid.get(signal, 0) + number
            if now - self._said.get(signal, -_LOG_SECONDS) < _LOG_SECONDS:
                return
            self._said[signal], self._unsaid[signal] = now, 0
        logger.warning(
            "telemetry lost",
            extra={"signal": signal, "lost": unsaid, "reason": reason[:_SHOWN]},
        )


class SdkWords(logging.Handler):
    """Takes the log lines of the SDK, of which a collector that is gone makes one a second: the
    first of an export is the reason why it failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._words = threading.local()
        for handler in [*_SDK.handlers]:
            if isinstance(handler, SdkWords):
                _SDK.removeHandler(handler)
        _SDK.addHandler(self)
        _SDK.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the first line of this thread."""
        if not getattr(self._words, "first", ""):
            self._words.first = record.getMessage()

    def listen(self) -> None:
        """Begins an export on this thread."""
        self._words.first = ""

    def heard(self) -> str:
        """The reason of its failure, as far as the SDK told one."""
        return getattr(self._words, "first", "") or "the export failed"
