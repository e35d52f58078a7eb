"""Whether this process uses more memory than its calls may hold."""

from collections.abc import Callable

from serving.base.machine.heap import trim_heap
from serving.base.machine.memory import own_bytes
from serving.base.memory import MemoryBudget

# Bytes by which the memory at rest may seem to grow before freed memory is given back first. Less
# has it done at every turn, more counts freed memory as the server's own.
_GROWTH = 16 << 20


# Bytes that the process may take beside what calls hold: connections, threads, runtimes that see a
# batch for the first time. Less cuts callers for it, more is to be added to the sum.
SLACK = 64 << 20
# Bytes that may still arrive until callers are cut: 100 MiB over loopback, 380 where a long copy
# had the GIL on two busy cores. At most a third of the budget is left free for them; calls
# hardly hold so much for themselves, since it is estimated upwards. More cuts callers earlier,
# less is to be added to the sum.
ARRIVING = 256 << 20


class MemoryWatch:
    """Compares the memory that this process has with the memory that it has at rest and the budget
    of its calls. Messages that gRPC is still receiving are in nobody's account; they show here.

    budget: of all calls.
    measure: bytes of memory that the process has now.
    rest: bytes that it has without calls: the interpreter, the models.
    """

    def __init__(self, budget: MemoryBudget, measure: Callable[[], int] = own_bytes) -> None:
        self.budget = budget
        self._measure = measure
        self.rest = measure()

    def excess(self) -> int:
        """Bytes above what it may have; negative below."""
        return self._measure() - self.rest - self.allowed

    @property
    def allowed(self) -> int:
        """Bytes that it may have beside those at rest: never less than what calls rightly hold."""
        limit, held = self.budget.limit, self.budget.used
        return max(limit + SLACK - min(limit // 3, ARRIVING), held + SLACK // 2)

    def at_rest(self, arriving: Callable[[], int] = int) -> int:
        """Bytes that it has now without calls, to be called while no message is on its way, but for
        `arriving` bytes at most: all else that calls do not hold then is the server's own, such as
        a model that was loaded. May block for as long as it takes to give freed memory back."""
        if self._measure() - self.budget.used > self.rest + _GROWTH:
            trim_heap()
        used = self.budget.used
        found = self._measure() - used
        used += (more := arriving())
        # These bytes are estimates, so that less may only seem to be left.
        return max(self.rest, found - more) if used else found
