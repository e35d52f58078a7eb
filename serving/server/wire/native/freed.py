"""Memory that calls have given back, and that the C library keeps."""

import asyncio
from collections.abc import Callable

from serving.base.machine.heap import trim_heap
from serving.base.machine.memory import own_bytes
from serving.base.memory import MemoryBudget

# Bytes that the process may have beside those that calls hold, more than it had at least, before
# freed memory is given back. Fewer have it done more often, 75 us for each MiB, in which no thread
# gets memory from the heap; more are to be added to what the process takes.
_KEPT = 64 << 20


class FreedMemory:
    """Gives it back to the system: calls may take their memory elsewhere next time, beside it.

    measure: bytes of memory that the process has now.
    trim: gives freed memory back.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        measure: Callable[[], int] = own_bytes,
        trim: Callable[[], None] = trim_heap,
    ) -> None:
        self._budget = budget
        self._measure = measure
        self._trim = trim
        self._least = self._unheld

    @property
    def _unheld(self) -> int:
        return self._measure() - self._budget.used

    async def look(self) -> None:
        """Gives it back where it is much. What is left then is the server's own, such as a model
        that was loaded."""
        unheld = self._unheld
        self._least = min(self._least, unheld)
        if unheld > self._least + _KEPT:
            await asyncio.to_thread(self._trim)
            self._least = self._unheld
