"""How late the event loop is: a heartbeat that a blocked loop delays."""

import asyncio
import os
import threading

from serving.base.metrics import FrontMetrics

# Seconds between two beats. A pause is seen but for a part of at most this length. Shorter shows
# more of it and wakes an idle server more often: 100 beats a second take 0.1 % of a core.
_PERIOD = 0.01


class LoopLag:
    """Beats on the event loop that is current in `start`, and counts how late each beat is.

    Time in which the loop's thread was ready to run but others had the cores is counted apart: a
    larger share of the machine mends that, and nothing else does.
    """

    def __init__(self, metrics: FrontMetrics) -> None:
        self._lag = metrics.loop_lag.labels()
        self._starved = metrics.loop_starved.labels()
        self._beat: asyncio.TimerHandle | None = None
        self._schedstat: int | None = None

    def start(self) -> None:
        """Begins to beat."""
        try:
            path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
            self._schedstat = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a sandbox without it: waits for a core count as lag
            self._schedstat = None
        self._loop = asyncio.get_running_loop()
        self._waited = self._waits()
        self._set()

    def stop(self) -> None:
        """Beats no more."""
        if self._beat is not None:
            self._beat.cancel()
        if self._schedstat is not None:
            os.close(self._schedstat)
        self._beat = self._schedstat = None

    def _set(self) -> None:
        self._due = self._loop.time() + _PERIOD
        self._beat = self._loop.call_at(self._due, self._beats)

    def _beats(self) -> None:
        late = self._loop.time() - self._due
        waited = self._waits()
        starved, self._waited = waited - self._waited, waited
        self._lag.observe(max(0.0, late - starved))
        self._starved.inc(starved)
        self._set()

    def _waits(self) -> float:
        """Seconds in all for which this thread was ready to run and had no core."""
        if self._schedstat is None:
            return 0.0
        # Nanoseconds on a core, nanoseconds without one, turns.
        return int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9
