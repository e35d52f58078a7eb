"""The sums that engine processes keep, in their front."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from serving.base.counting.sums import Rows, Share, Snapshot
from serving.base.metrics import EngineMetrics
from serving.remote.records import BadRecord


class RemoteShare(Share):
    """The sums of the engine process, and of those before it: what was shown once never falls.

    fetch: asks for the sums as they are; None where nobody answers soon.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Any]]) -> None:
        self._fetch = fetch
        # Counts of the dead, and the sums of the one that lives. A thread that reads meanwhile must
        # not see the counts of one in both, or in none.
        self._sums: tuple[dict[str, Rows], Snapshot] = {}, Snapshot({}, {})

    async def refresh(self) -> None:
        """`Share.refresh`."""
        if (told := await self._fetch()) is not None:
            with contextlib.suppress(BadRecord):
                self.took(told)

    def took(self, told: Any) -> None:
        """Takes the sums of the engine process. Raises BadRecord."""
        try:
            counts, levels = (_rows(part) for part in told)
            now = Snapshot(counts, levels)
            tried = EngineMetrics()
            tried.add(now.counts)
            tried.add(now.levels)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise BadRecord(f"sums that cannot be read: {error}") from error
        self._sums = self._sums[0], now

    def ended(self) -> None:
        """The engine process is dead: keeps its counts, and drops its levels."""
        self._sums = self.snapshot().counts, Snapshot({}, {})

    def snapshot(self) -> Snapshot:
        """`Share.snapshot` of all of them together."""
        before, now = self._sums
        total = EngineMetrics()
        for sums in (before, now.counts, now.levels):
            total.add(sums)
        return total.snapshot()


def _rows(part: Any) -> dict[str, Rows]:
    return {
        name: [(tuple(labels), numbers) for labels, numbers in rows] for name, rows in part.items()
    }
