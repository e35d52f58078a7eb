"""The queue of one model: bounded, by priority and then by deadline. It has no clock of its own."""

import heapq
import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

# Without a deadline a call is ordered as if it had this much time, in seconds: it comes after the
# urgent ones, but no stream of later calls with short deadlines can hold it back for ever.
PATIENCE = 10.0


@dataclass(slots=True, eq=False)
class Entry:
    """One call in the queue.

    rows: its share of a batch. deadline: when it is of no more use, target: when it ought to be
    answered; seconds on the monotonic clock, inf for none. key: only entries with equal keys can
    share a batch (the shapes of their inputs). delayed: comes after all others of its priority.
    place: its number in the queue, a new one each time that it is pushed.
    """

    rows: int
    priority: int
    arrived: float
    deadline: float
    key: Hashable = None
    target: float = math.inf
    delayed: bool = False
    queued: bool = field(default=False, init=False)
    place: int = field(default=-1, init=False)

    @property
    def rank(self) -> tuple[int, float]:
        """Lower goes first."""
        if self.delayed:
            return self.priority, math.inf
        return self.priority, min(self.due, self.arrived + PATIENCE)

    @property
    def due(self) -> float:
        """The earlier of deadline and target."""
        return min(self.deadline, self.target)


E = TypeVar("E", bound="Entry")


class BatchQueue(Generic[E]):
    """Entries in the order in which they are to be run."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, float], int, E]] = []
        self._sequence = itertools.count()
        self.rows = 0

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

    def rows_before(self, rank: tuple[int, float]) -> int:
        """Rows of the entries that would be run before a new one of this rank."""
        return sum(item[2].rows for item in self._heap if item[0] <= rank and _stands(item))

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


def _stands(item: tuple[tuple[int, float], int, Entry]) -> bool:
    """Whether an entry is still in the queue, and at this place."""
    return item[2].queued and item[2].place == item[1]
