"""Freed memory goes back to the system where it is much."""

import asyncio

from serving.base.memory import MemoryBudget
from serving.server.wire.native.freed import FreedMemory

MIB = 1 << 20


class Process:
    """A process with so many bytes beside those that calls hold."""

    def __init__(self) -> None:
        self.unheld = 200 * MIB
        self.after = 0
        self.trims = 0
        self.budget = MemoryBudget(1000 * MIB)
        self.freed = FreedMemory(self.budget, self.measure, self.trim)

    def measure(self) -> int:
        return self.unheld + self.budget.used

    def trim(self) -> None:
        self.trims += 1
        self.unheld = self.after

    def look(self, unheld: int, after: int = 200 * MIB) -> int:
        self.unheld, self.after = unheld, after
        asyncio.run(self.freed.look())
        return self.trims


def test_much_freed_memory_is_given_back() -> None:
    process = Process()
    assert process.look(260 * MIB) == 0
    assert process.look(300 * MIB) == 1
    assert process.look(300 * MIB) == 2


def test_memory_that_calls_hold_is_none_of_it() -> None:
    process = Process()
    process.budget.take("message", 500 * MIB)
    assert process.look(200 * MIB) == 0
    process.budget.give_back("message", 500 * MIB)
    assert process.look(700 * MIB) == 1


def test_what_cannot_be_given_back_is_the_servers_own() -> None:
    process = Process()
    assert process.look(500 * MIB, after=500 * MIB) == 1
    assert process.look(510 * MIB) == 1
    # Until it has less again.
    assert process.look(200 * MIB) == 1
    assert process.look(300 * MIB) == 2
