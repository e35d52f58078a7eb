"""Shares the machine's cores between the models of a process: who may run a batch, and when.

Every engine is given threads for all cores, so two batches at once would slow each other down and
make every latency unpredictable. The next turn goes to the model that has had the least of the
cores (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996), so that a flood on one model
makes another wait for the batch that runs, and for no more of them while it takes less than its
share.
"""

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Share:
    """What a model has had of the cores, in seconds of all of them; a model that was idle is put
    level with the others, for it has no claim on what it left to them."""

    had: float = 0.0


@dataclass(slots=True, eq=False)
class Turn:
    """A batch that wants `cores` for about `seconds`; `start` is called when it may run. asked,
    began, ends: when it was asked for, began and is expected to end. after: what its model has had
    before it, by which turns are ordered; charged: what it was taken to need, of all cores."""

    share: Share
    cores: int
    seconds: float
    start: Callable[["Turn"], None]
    asked: float = field(default=0.0, init=False)
    began: float = field(default=0.0, init=False)
    ends: float = field(default=0.0, init=False)
    after: float = field(default=0.0, init=False)
    charged: float = field(default=0.0, init=False)


class CoreTurns:
    """Grants turns while cores are free. Time is passed in."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._free = cores
        # By `after`; equal ones in the order in which they came.
        self._waiting: list[Turn] = []
        self._running: set[Turn] = set()
        # What the model that began last had had.
        self._level = 0.0

    def ask(self, turn: Turn, now: float) -> None:
        """Queues a turn, or starts it at once. One that wants more cores than there are gets all
        of them; one that wants none (its work is on another device) never waits."""
        turn.cores = min(turn.cores, self._cores)
        turn.asked = now
        if not turn.cores:
            self._begin(turn, now)
            return
        turn.after = self._standing(turn.share)
        turn.charged = turn.seconds * turn.cores / self._cores
        turn.share.had = turn.after + turn.charged
        bisect.insort(self._waiting, turn, key=_after)
        self._grant(now)

    def give_back(self, turn: Turn, now: float) -> None:
        """Ends a turn that has run; what it took counts, not what it was expected to take."""
        self._running.remove(turn)
        self._free += turn.cores
        turn.share.had += (now - turn.began) * turn.cores / self._cores - turn.charged
        self._grant(now)

    def holds(self, turn: Turn) -> bool:
        """Whether a turn was granted and not given back."""
        return turn in self._running

    def wait(self, share: Share, cores: int, now: float) -> float:
        """Seconds until the next batch of a model may start: the rest of what runs, and the batches
        that go before its own."""
        rest = 0.0
        if self._free < cores and self._running:
            rest = max(0.0, min(turn.ends for turn in self._running) - now)
        ahead = 0.0
        standing = self._standing(share)
        for turn in self._waiting:
            if turn.share is share or turn.after > standing:
                break
            ahead += turn.seconds
        return rest + ahead

    def _standing(self, share: Share) -> float:
        return max(share.had, self._level)

    def _grant(self, now: float) -> None:
        while self._waiting and self._waiting[0].cores <= self._free:
            turn = self._waiting.pop(0)
            self._level = turn.after
            self._begin(turn, now)

    def _begin(self, turn: Turn, now: float) -> None:
        self._free -= turn.cores
        turn.began = now
        turn.ends = now + turn.seconds
        self._running.add(turn)
        turn.start(turn)


def _after(turn: Turn) -> float:
    return turn.after
