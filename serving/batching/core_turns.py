"""Shares the machine's cores between the models of a process.

Every engine is given threads for all cores, so two batches at once would slow each other down and
make every latency unpredictable. The next turn goes to the model that has used the cores least
(start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996). Under a flood on one model, another
that uses less than its share waits only for the batch that is running.
"""

import bisect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

# Weight of the newest turn in the average wait for a turn: larger follows faster, smaller is
# smoother. At 0.1 the average covers about the last ten turns.
_WAIT_WEIGHT = 0.1


@dataclass(slots=True, eq=False)
class CoreShare:
    """One model's use of the cores. A model that was idle starts level with the others: it has no
    claim on the time that it did not use.

    had: seconds of all cores that it was charged for.
    wait: seconds that its turns waited for the cores, as a moving average.
    """

    had: float = 0.0
    wait: float = 0.0


@dataclass(slots=True, eq=False)
class Turn:
    """A batch that wants cores. Times are monotonic seconds.

    share: the use of the cores by its model.
    cores: the number that it wants.
    seconds: how long it is expected to run.
    start: called with the turn when it may run.
    lost: called with the turn and the error where `start` raised; the turn has ended by then.
    asked: when it was asked for.
    began: when it began.
    ends: when it is expected to end.
    after: `had` of its model before this turn; the least goes first.
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

    free: cores that no turn holds.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self.free = cores
        # Sorted by `after`; equal ones in order of arrival.
        self._waiting: list[Turn] = []
        self._running: set[Turn] = set()
        # `after` of the turn that began last, from which an idle model starts.
        self._level = 0.0

    def ask(self, turn: Turn, now: float) -> None:
        """Queues a turn, or starts it at once. A turn that wants more cores than the machine has
        gets all of them; a turn that wants none, since it runs on another device, never waits."""
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
        time. Does nothing where the turn has ended already."""
        if turn in self._running:
            self._release(turn, now)
            self._grant(now)

    def others_wait(self, share: CoreShare) -> bool:
        """Whether another model waits for cores."""
        return any(turn.share is not share for turn in self._waiting)

    def wait(self, share: CoreShare, cores: int, now: float) -> float:
        """Seconds until the next batch of a model may start: the rest of the batch that ends first,
        and the batches that go before its own."""
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
            # Raised here, the error would hit whichever model asked or gave back.
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
