"""The queue of one model: bounded, by priority and then by deadline. It has no clock of its own."""

import bisect
import heapq
import itertools
import math
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

# Without a deadline a call is ordered as if it had this much time, in seconds: it comes after the
# urgent ones, but no stream of later calls with short deadlines can hold it back for ever.
PATIENCE = 10.0


class Entry:
    """One call in the queue.

    rows: its share of a batch. deadline: when it is of no more use, target: when it ought to be
    answered, due: the earlier of both; seconds on the monotonic clock, inf for none. key: only
    entries with equal keys can share a batch (the shapes of their inputs). rank: lower goes first.
    place: its number in the queue, a new one each time that it is pushed. standing: its place in
    the line.
    """

    __slots__ = (
        "arrived", "deadline", "due", "key", "place", "priority", "queued", "rank", "rows",
        "standing",
    )  # fmt: skip

    def __init__(
        self,
        rows: int,
        priority: int,
        arrived: float,
        deadline: float,
        key: Hashable = None,
        target: float = math.inf,
    ) -> None:
        self.rows = rows
        self.priority = priority
        self.arrived = arrived
        self.deadline = deadline
        self.due = target if target < deadline else deadline
        self.key = key
        self.rank = (priority, min(self.due, arrived + PATIENCE))
        self.queued = False
        self.place = -1
        self.standing = (self.rank, -1)

    def put_behind(self) -> None:
        """From now on all others of its priority go first, and it has no target any more."""
        self.due = self.deadline
        self.rank = (self.priority, math.inf)


E = TypeVar("E", bound="Entry")


class BatchQueue(Generic[E]):
    """Entries in the order in which they are to be run."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, float], int, E]] = []
        self._sequence = itertools.count()
        self.rows = 0

    def __iter__(self) -> Iterator[E]:
        """All entries, in no order."""
        return (item[2] for item in self._heap if _stands(item))

    def push(self, entry: E) -> None:
        """Adds an entry."""
        entry.queued = True
        self.rows += entry.rows
        entry.place = next(self._sequence)
        heapq.heappush(self._heap, (entry.rank, entry.place, entry))

    def remove(self, entry: E) -> bool:
        """Takes an entry out, wherever it stands; False where it is not in the queue any more."""
        if not entry.queued:
            return False
        entry.queued = False
        self.rows -= entry.rows
        return True

    def peek(self) -> E | None:
        """The entry that is to run next; None when the queue is empty."""
        while self._heap and not _stands(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop_batch(self, max_rows: int) -> list[E]:
        """Takes out the first entry and those after it that can share its batch.

        Entries with another key are passed over and keep their place. An entry that no longer fits
        ends the batch, so that a large one is not overtaken for ever by small ones.
        """
        head = self.peek()
        if head is None:
            return []
        batch: list[E] = []
        passed: list[tuple[tuple[int, float], int, E]] = []
        free = max_rows
        while self._heap and free > 0:
            item = heapq.heappop(self._heap)
            entry = item[2]
            if not _stands(item):
                continue
            if entry.key != head.key:
                passed.append(item)
                continue
            if batch and entry.rows > free:
                passed.append(item)
                break
            self.remove(entry)
            batch.append(entry)
            free -= entry.rows
        for item in passed:
            heapq.heappush(self._heap, item)
        return batch


class Line(Generic[E]):
    """All calls that wait, queued or still being decoded, by rank: how many go before a new one is
    told without looking at each of them."""

    def __init__(self) -> None:
        self._ranks: list[tuple[tuple[int, float], int]] = []
        self._entries: dict[tuple[tuple[int, float], int], E] = {}
        self._sequence = itertools.count()
        self.rows = 0

    def entries(self) -> list[E]:
        """All of them, in no order."""
        return list(self._entries.values())

    def add(self, entry: E) -> None:
        """Puts an entry in by its rank of this moment."""
        entry.standing = entry.rank, next(self._sequence)
        bisect.insort(self._ranks, entry.standing)
        self._entries[entry.standing] = entry
        self.rows += entry.rows

    def leave(self, entry: E) -> None:
        """Takes an entry out."""
        del self._entries[entry.standing]
        del self._ranks[bisect.bisect_left(self._ranks, entry.standing)]
        self.rows -= entry.rows

    def rows_before(self, rank: tuple[int, float]) -> int:
        """Rows of the entries that go before a new one of this rank; a call has as many as they
        have on average."""
        calls = bisect.bisect_right(self._ranks, (rank, next(self._sequence)))
        return round(calls * self.rows / len(self._ranks)) if calls else 0


def _stands(item: tuple[tuple[int, float], int, Entry]) -> bool:
    """Whether an entry is still in the queue, and at this place."""
    return item[2].queued and item[2].place == item[1]
