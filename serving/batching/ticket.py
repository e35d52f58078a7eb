"""One call on its way through the batcher, and its answer."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from serving.base.tensor import Array

Rank = tuple[int, int, float]

# Seconds: a call without a deadline is ordered as if it had this one. Longer lets more urgent calls
# go first, shorter lets a stream of later calls hold it back less.
PATIENCE = 10.0


# A round after all others.
_LAST = 1 << 62


class State(Enum):
    """A ticket's life. Only the first three states are followed by another.

    RESERVED: holds a place while its inputs are received or decoded.
    QUEUED: waits for a batch.
    RUNNING: rides in a batch.
    ANSWERED: has outputs or an error.
    EXPIRED: its deadline passed while it was queued.
    CANCELLED: its caller went away.
    WITHDRAWN: never had inputs, or its place was taken back.
    """

    RESERVED = auto()
    QUEUED = auto()
    RUNNING = auto()
    ANSWERED = auto()
    EXPIRED = auto()
    CANCELLED = auto()
    WITHDRAWN = auto()


# Reading a name of the module is seven times faster than reading a member of the Enum (CPython
# 3.11: 7 and 50 ns), and every call passes through four states.
RESERVED, QUEUED, RUNNING, ANSWERED, EXPIRED, CANCELLED, WITHDRAWN = State


class Timing:
    """The times of one call in seconds, made with its ticket and filled on the way; 0 for a stage
    that has not ended.

    decode: from encoded images to pixels of the network's size.
    queue: from arrival to the start of the batch.
    infer: the engine's time for the whole batch.
    started, began: when the batch left the queue, and when the engine began, monotonic seconds.
    postprocess: from outputs to the answer of the task.
    batch_size: rows of the whole batch.
    """

    __slots__ = ("batch_size", "began", "decode", "infer", "postprocess", "queue", "started")

    def __init__(self) -> None:
        self.decode = self.queue = self.infer = self.postprocess = self.started = self.began = 0.0
        self.batch_size = 0

    def with_decode(self, seconds: float) -> "Timing":
        """The times of one image of the call, whose decoding took `seconds`."""
        own = Timing()
        own.decode, own.queue, own.infer = seconds, self.queue, self.infer
        own.postprocess, own.batch_size = self.postprocess, self.batch_size
        return own


class Answer(NamedTuple):
    """One call's share of a batch.

    outputs: arrays [rows, ...] by name; they belong to the caller.
    timing: the times of its ticket, filled up to the batch.
    """

    outputs: Mapping[str, Array]
    timing: Timing


# Called once, on the event loop, with the answer of a call or the reason why it has none.
Done = Callable[[Answer | Exception], None]


class Ticket:
    """An admitted call. Times are seconds on the monotonic clock, inf for never.

    state: where it stands.
    rows: its share of a batch.
    priority: 1 is the most urgent level.
    arrived: when it was admitted.
    deadline: when it fails if it still waits.
    delay_at: when it falls behind the others of its priority.
    due: when it ought to be answered, at the latest its deadline; batches are kept small for it.
    round: of its caller among others, as `Rounds` has it; 0 where callers are not told apart.
    rank: its order; lower goes first.
    key: only calls with equal keys can share a batch. By default the shapes of the inputs.
    parts: inputs by name, [rows, ...] each, whose rows follow one another.
    timing: its times so far.
    done: called with its answer, or the error; unset while RESERVED. Nobody calls it once the call
        is CANCELLED.
    standing: its number in Waiting; -1 for none.
    place: its number in BatchQueue; -1 for none.
    """

    __slots__ = (
        "arrived", "deadline", "delay_at", "done", "due", "key", "parts", "place", "priority",
        "rank", "round", "rows", "standing", "state", "timing",
    )  # fmt: skip

    done: Done
    parts: Sequence[Mapping[str, Array]]

    def __init__(
        self,
        rows: int,
        priority: int,
        arrived: float,
        deadline: float = math.inf,
        target: float = math.inf,
        delay_at: float = math.inf,
        key: Hashable = None,
        round: int = 0,  # noqa: A002 - the word for it
    ) -> None:
        self.state = RESERVED
        self.timing = Timing()
        self.rows = rows
        self.priority = priority
        self.arrived = arrived
        self.deadline = deadline
        self.delay_at = delay_at
        self.due = due = target if target < deadline else deadline
        latest = arrived + PATIENCE
        self.round = round
        self.rank: Rank = (priority, round, due if due < latest else latest)
        self.key = key
        self.standing = self.place = -1

    def put_behind(self) -> None:
        """Lets all others of its priority go first from now on, and drops its target."""
        self.due = self.deadline
        self.delay_at = math.inf
        self.rank = (self.priority, _LAST, math.inf)


def row_shapes(inputs: Mapping[str, Array]) -> Hashable:
    """The key of a call with these inputs, [rows, ...] each."""
    if len(inputs) == 1:
        [array] = inputs.values()
        return array.shape[1:]
    return tuple((name, array.shape[1:]) for name, array in sorted(inputs.items()))
