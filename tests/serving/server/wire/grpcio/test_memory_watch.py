"""What counts as the server's own memory, and what as its callers'."""

from serving.base.machine.memory import own_bytes
from serving.base.memory import MemoryBudget
from serving.server.wire.grpcio.memory_watch import SLACK, MemoryWatch

MIB = 1 << 20


class Process:
    """A process of as many bytes as a test says."""

    def __init__(self, limit: int) -> None:
        self.bytes = 200 * MIB
        self.budget = MemoryBudget(limit)
        self.watch = MemoryWatch(self.budget, lambda: self.bytes)

    def rest(self) -> None:
        self.watch.rest = self.watch.at_rest()


def test_messages_that_nobody_holds_yet_count_as_excess() -> None:
    process = Process(99 * MIB)
    assert process.watch.excess() == -66 * MIB - SLACK
    process.bytes += 96 * MIB + SLACK
    assert process.watch.excess() == 30 * MIB


def test_model_that_was_loaded_takes_nothing_from_the_calls() -> None:
    process = Process(99 * MIB)
    process.bytes += 500 * MIB
    process.rest()
    assert process.watch.excess() == -66 * MIB - SLACK
    process.bytes -= 400 * MIB
    process.rest()
    assert process.watch.rest == process.bytes


def test_held_bytes_are_not_the_servers_own() -> None:
    process = Process(99 * MIB)
    process.budget.take("message", 40 * MIB)
    process.bytes += 40 * MIB
    process.rest()
    assert process.watch.rest == 200 * MIB
    # Bytes that are held may be fewer than was estimated.
    process.bytes -= 30 * MIB
    process.rest()
    assert process.watch.rest == 200 * MIB


def test_calls_may_hold_all_of_the_budget() -> None:
    process = Process(300 * MIB)
    process.budget.take("answer", 300 * MIB)
    process.bytes += 300 * MIB
    assert process.watch.excess() == -SLACK // 2
    process.bytes += SLACK
    assert process.watch.excess() == SLACK // 2


def test_memory_of_the_process_grows_by_what_it_takes() -> None:
    before = own_bytes()
    taken = bytearray(b"x" * (64 * MIB))
    assert 60 * MIB < own_bytes() - before < 200 * MIB
    del taken
