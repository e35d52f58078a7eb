"""Shares the machine's cores between the models of a process: who may run a batch, and when.

Every engine is given threads for all cores, so two batches at once would slow each other down and
make every latency unpredictable. The next turn goes to the model that has had the least of the
cores (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996). A flood on one model then
makes another wait for the batch that runs, and for no further ones while it takes less than its
share.
"""

import bisect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

# Weight of the newest turn in the average wait for one: larger follows faster, smaller is smoother;
# at 0.1 some ten turns forget what was before.
_WAIT_WEIGHT = 0.1


@dataclass(slots=True, eq=False)
class CoreShare:
    """One model's use of the cores. A model that was idle is put level with the others: it has no
    claim on the time that it left to them.

    had: seconds of all cores together.
    wait: seconds that its turns waited for the cores, on average of late.
    """

    had: float = 0.0
    wait: float = 0.0


@dataclass(slots=True, eq=False)
class Turn:
    """A batch that wants cores. Times are monotonic seconds.

    share: its model's.
    cores: the number that it wants.
    seconds: how long it is expected to run.
    start: called with the turn when it may run.
    lost: called with the turn, which has ended by then, and the error where `start` raised.
    asked, began, ends: when it was asked for, began and is expected to end.
    after: what its model had had before it; the least goes first.
    charged: seconds of all cores that its model was charged for it.
    """

    share: CoreShare
    cores: int
    seconds: float
    start: Callable[[Any], None]
    lost: Callable[[Any, BaseException], None] | None = None
    asked: float = field(default=0.0, init=False)
    began: float = field(default=0.0, init=False)
    ends: float = field(default=0.0, init=False)
    after: float = field(default=0.0, init=False)
    charged: float = field(default=0.0, init=False)


class CoreTurns:
    """Grants turns while cores are free. Time is passed in.

    free: cores that no turn has.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self.free = cores
        # By `after`; equal ones in the order in which they came.
        self._waiting: list[Turn] = []
        self._running: set[Turn] = set()
        # `after` of the turn that began last: a model that was idle starts from here.
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
        """Ends a turn that was granted, and charges the time that it took in place of the expected
        one. Does nothing where it has ended already."""
        if turn in self._running:
            self._release(turn, now)
            self._grant(now)

    def wait(self, share: CoreShare, cores: int, now: float) -> float:
        """Seconds until the next batch of a model may start: the rest of what runs, and the batches
        that go before its own."""
        rest = 0.0
        if self.free < cores and self._running:
            rest = max(0.0, min(turn.ends for turn in self._running) - now)
        ahead = 0.0
        standing = self._standing(share)
        for turn in self._waiting:
            if turn.share is share or turn.after > standing:
                break
            ahead += turn.seconds
        return rest + ahead

    def _standing(self, share: CoreShare) -> float:
        return max(share.had, self._level)

    def _grant(self, now: float) -> None:
        while self._waiting and self._waiting[0].cores <= self.free:
            turn = self._waiting.pop(0)
            self._level = turn.after
            self._begin(turn, now)

    def _begin(self, turn: Turn, now: float) -> None:
        self.free -= turn.cores
        turn.began = now
        turn.share.wait += _WAIT_WEIGHT * (now - turn.asked - turn.share.wait)
        turn.ends = now + turn.seconds
        self._running.add(turn)
        try:
            turn.start(turn)
        except BaseException as error:
            # Another model may be the one that asks or gives back: it must not be hit.
            logger.exception("a turn could not start")
            if turn in self._running:
                self._release(turn, now)
            if turn.lost is not None:
                turn.lost(turn, error)

    def _release(self, turn: Turn, now: float) -> None:
        self._running.remove(turn)
        self.free += turn.cores
        turn.share.had += (now - turn.began) * turn.cores / self._cores - turn.charged


def _after(turn: Turn) -> float:
    return turn.after
