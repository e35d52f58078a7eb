"""One call on its way through the batcher, and what it comes to."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from serving.batching.queue import Entry
from serving.tensor import Array


@dataclass(slots=True, eq=False)
class Ticket(Entry):
    """An admitted call: first a reserved place, then, with its inputs, an entry of the queue.
    parts: inputs by name, whose rows follow one another. delay_at: when it falls behind the others
    of its priority, inf for never."""

    delay_at: float = math.inf
    reserved: bool = field(default=True, init=False)
    parts: Sequence[Mapping[str, Array]] = field(default=(), init=False)
    answer: "asyncio.Future[Answer] | None" = field(default=None, init=False)
    timer: asyncio.TimerHandle | None = field(default=None, init=False)


class Answer(NamedTuple):
    """One call's share of a batch.

    outputs: arrays [rows, ...] that belong to the caller; the seconds that it waited and that its
    batch ran; batch_size: rows of the whole batch.
    """

    outputs: Mapping[str, Array]
    queue_seconds: float
    infer_seconds: float
    batch_size: int
