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
        self._before = EngineMetrics()
        self._now = Snapshot({}, {})

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
        self._now = now

    def ended(self) -> None:
        """The engine process is dead: keeps its counts, and drops its levels."""
        self._before.add(self._now.counts)
        self._now = Snapshot({}, {})

    def snapshot(self) -> Snapshot:
        """`Share.snapshot` of all of them together."""
        total = EngineMetrics()
        total.add(self._before.snapshot().counts)
        total.add(self._now.counts)
        total.add(self._now.levels)
        return total.snapshot()


def _rows(part: Any) -> dict[str, Rows]:
    return {
        name: [(tuple(labels), numbers) for labels, numbers in rows] for name, rows in part.items()
    }
