"""The order in which calls run, and the calls that share a batch. It reads no clock."""

import heapq
import itertools
from collections.abc import Iterator

from serving.batching.ticket import Rank, Ticket

_Item = tuple[Rank, int, Ticket]


class BatchQueue:
    """Calls in the order in which they are to run: by rank, equal ranks in order of arrival.

    rows: the sum over all calls.
    """

    def __init__(self) -> None:
        # A removed call stays in the heap until it reaches the top.
        self._heap: list[_Item] = []
        self._sequence = itertools.count()
        self.rows = 0

    def __iter__(self) -> Iterator[Ticket]:
        """All calls, in no order."""
        return (item[2] for item in self._heap if item[2].place == item[1])

    def push(self, ticket: Ticket) -> None:
        """Adds a call."""
        self.move(ticket)
        self.rows += ticket.rows

    def move(self, ticket: Ticket) -> None:
        """Moves a call whose rank has changed to its new place."""
        place = next(self._sequence)
        heapq.heappush(self._heap, (ticket.rank, place, ticket))
        ticket.place = place

    def remove(self, ticket: Ticket) -> bool:
        """Takes a call out, wherever it stands; False where it is not in the queue."""
        if ticket.place < 0:
            return False
        ticket.place = -1
        self.rows -= ticket.rows
        return True

    def peek(self) -> Ticket | None:
        """The call that is to run next; None when the queue is empty."""
        while self._heap and self._heap[0][2].place != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop_batch(self, max_rows: int) -> list[Ticket]:
        """Takes out the first call and those after it that can share its batch of `max_rows`.

        Calls with another key are passed over and keep their place. A call that no longer fits
        ends the batch, so that small calls cannot overtake a large one for ever. The first call is
        taken even if it has more than `max_rows`.
        """
        head = self.peek()
        if head is None:
            return []
        batch: list[Ticket] = []
        passed: list[_Item] = []
        free = max_rows
        while self._heap and free > 0:
            item = heapq.heappop(self._heap)
            ticket = item[2]
            if ticket.place != item[1]:
                continue
            if ticket.key != head.key:
                passed.append(item)
                continue
            if batch and ticket.rows > free:
                passed.append(item)
                break
            ticket.place = -1
            batch.append(ticket)
            free -= ticket.rows
        self.rows -= max_rows - free
        for item in passed:
            heapq.heappush(self._heap, item)
        return batch
