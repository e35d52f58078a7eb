"""One call on its way through the batcher, and what it comes to."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from serving.base.tensor import Array
from serving.batching.queue import Entry


class Ticket(Entry):
    """An admitted call: first a reserved place, then, with its inputs, an entry of the queue.
    delay_at: when it falls behind the others of its priority, inf for never. parts: inputs by name,
    whose rows follow one another."""

    __slots__ = ("answer", "delay_at", "parts", "reserved")

    def __init__(
        self,
        rows: int,
        priority: int,
        arrived: float,
        deadline: float,
        target: float,
        delay_at: float,
    ) -> None:
        super().__init__(rows, priority, arrived, deadline, None, target)
        self.delay_at = delay_at
        self.reserved = True
        self.parts: Sequence[Mapping[str, Array]] = ()
        self.answer: asyncio.Future[Answer] | None = None

    def put_behind(self) -> None:
        """See Entry; it does not fall behind again."""
        super().put_behind()
        self.delay_at = math.inf


class Answer(NamedTuple):
    """One call's share of a batch.

    outputs: arrays [rows, ...] that belong to the caller; the seconds that it waited and that its
    batch ran; batch_size: rows of the whole batch.
    """

    outputs: Mapping[str, Array]
    queue_seconds: float
    infer_seconds: float
    batch_size: int
