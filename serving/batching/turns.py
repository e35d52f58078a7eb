"""Shares the machine's cores between the models of a process: who may run a batch, and when.

Every engine is given threads for all cores, so two batches at once would slow each other down and
make every latency unpredictable. Turns go in the order in which they were asked for; a model asks
anew for each batch, so a flood on one makes another wait for one of its batches at most.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Turn:
    """A batch that wants `cores` for about `seconds`; `start` is called when it may run."""

    owner: object
    cores: int
    seconds: float
    start: Callable[["Turn"], None]
    ends: float = 0.0


class CoreTurns:
    """Grants turns while cores are free, first come, first served. Time is passed in."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._free = cores
        self._waiting: deque[Turn] = deque()
        self._running: set[Turn] = set()

    def ask(self, turn: Turn, now: float) -> None:
        """Queues a turn, or starts it at once. One that wants more cores than there are gets all
        of them; one that wants none (its work is on another device) never waits."""
        turn.cores = min(turn.cores, self._cores)
        if turn.cores:
            self._waiting.append(turn)
            self._grant(now)
        else:
            self._begin(turn, now)

    def give_back(self, turn: Turn, now: float) -> None:
        """Ends a turn that has run."""
        self._running.remove(turn)
        self._free += turn.cores
        self._grant(now)

    def wait(self, owner: object, cores: int, now: float) -> float:
        """Seconds until a batch of `owner` may start: the rest of what runs, and the batches that
        were asked for before its own."""
        rest = 0.0
        if self._free < cores and self._running:
            rest = max(0.0, min(turn.ends for turn in self._running) - now)
        ahead = 0.0
        for turn in self._waiting:
            if turn.owner is owner:
                break
            ahead += turn.seconds
        return rest + ahead

    def _grant(self, now: float) -> None:
        while self._waiting and self._waiting[0].cores <= self._free:
            self._begin(self._waiting.popleft(), now)

    def _begin(self, turn: Turn, now: float) -> None:
        self._free -= turn.cores
        turn.ends = now + turn.seconds
        self._running.add(turn)
        turn.start(turn)
