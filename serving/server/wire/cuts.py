"""Callers that were cut: counted, and named in the log once a minute for each reason."""

import logging
import time
from collections import Counter

from serving.base.metrics import FrontMetrics

logger = logging.getLogger(__name__)

# Seconds between two lines of the log for one reason; callers cause as many as they like.
_LOG_SECONDS = 60.0


class Cuts:
    """Counts them."""

    def __init__(self, metrics: FrontMetrics) -> None:
        self._metrics = metrics
        self._unlogged = Counter[str]()
        self._log_next: dict[str, float] = {}

    def count(self, reason: str, number: int = 1) -> None:
        """So many more: receive, send, memory, connections or tls."""
        if number:
            self._metrics.cut.labels(reason).inc(number)
            self._unlogged[reason] += number
        self.log()

    def log(self) -> None:
        """Says what has not been said for a minute."""
        now = time.monotonic()
        for reason in [*self._unlogged]:
            if now >= self._log_next.get(reason, now):
                self._log_next[reason] = now + _LOG_SECONDS
                number = self._unlogged.pop(reason)
                logger.warning("callers cut", extra={"reason": reason, "count": number})
