"""The deadlines of a connection's calls, on one timer."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping

from serving.server.wire.native.call import NativeCall

# Seconds between two looks, at least. Shorter ends calls more punctually; a look takes 50 ns for
# each call of the connection.
_LOOK_SECONDS = 0.002
# Seconds that a timer waits at most; a caller may name a deadline in 11,000 years.
_LONGEST = 86_400.0


class Deadlines:
    """Calls `expire` for each call whose deadline has passed. A timer for each call would cost it
    2 us, and hardly one fires."""

    def __init__(
        self, calls: Mapping[int, NativeCall], expire: Callable[[NativeCall], None]
    ) -> None:
        self._calls = calls
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def watch(self, deadline: float) -> None:
        """Looks at the calls by then, monotonic seconds."""
        if deadline < self._at:
            self.close()
            self._at = deadline
            seconds = min(max(deadline - time.monotonic(), _LOOK_SECONDS), _LONGEST)
            self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer, self._at = None, math.inf
        now, earliest = time.monotonic(), math.inf
        for call in [*self._calls.values()]:
            if call.over:
                continue
            if call.deadline <= now:
                self._expire(call)
            else:
                earliest = min(earliest, call.deadline)
        self.watch(earliest)

    def close(self) -> None:
        """Stops looking."""
        if self._timer is not None:
            self._timer.cancel()
