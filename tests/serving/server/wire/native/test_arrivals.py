"""Messages that nobody will read leave in slices, so that the loop goes on."""

import asyncio

from serving.base.errors import ServingError
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.server.wire.cuts import Cuts
from serving.server.wire.native.arrivals import Arrivals
from serving.server.wire.native.framing import Messages
from tests.support.raw_http2 import message

MIB = 1 << 20
LIMIT = 100 * MIB


class Arriving:
    """A call with a message of which so many bytes have come."""

    site = "127.0.0.1"

    def __init__(self, arrivals: Arrivals, size: int) -> None:
        self._arrivals = arrivals
        self.messages = Messages(LIMIT)
        self.messages.add(message(bytes(size + 1))[:-1])
        self.held = 0
        self.refusal: ServingError | None = None
        arrivals.take(self, size)

    def refuse(self, error: ServingError) -> None:
        self.refusal = error
        self._arrivals.discard(self, self.messages)

    def grant(self) -> None:
        """Never asked."""


def made() -> tuple[MemoryBudget, Arrivals]:
    budget = MemoryBudget(LIMIT)
    return budget, Arrivals(budget, Cuts(FrontMetrics()))


async def rounds_until_free(arrivals: Arrivals) -> int:
    count = 0
    while arrivals.leaving:
        await asyncio.sleep(0)
        count += 1
    return count


def test_much_is_freed_in_many_rounds_and_held_until_then() -> None:
    async def body() -> None:
        budget, arrivals = made()
        calls = [Arriving(arrivals, 2 * MIB) for _ in range(40)]
        for call in calls:
            arrivals.discard(call, call.messages)
        assert arrivals.leaving == budget.used == 80 * MIB
        assert await rounds_until_free(arrivals) >= 10
        assert budget.used == 0
        assert not any(call.messages.cost or call.held for call in calls)

    asyncio.run(body())


def test_little_is_freed_at_once() -> None:
    budget, arrivals = made()
    call = Arriving(arrivals, 1000)
    arrivals.discard(call, call.messages)
    assert (budget.used, call.messages.cost, arrivals.leaving) == (0, 0, 0)


def test_memory_that_is_about_to_be_freed_lets_others_in() -> None:
    """Nobody else is refused for it."""

    async def body() -> None:
        budget, arrivals = made()
        calls = [Arriving(arrivals, 8 * MIB) for _ in range(12)]
        later = [Arriving(arrivals, 8 * MIB) for _ in range(3)]
        assert [call.refusal is not None for call in calls] == [True] * 3 + [False] * 9
        assert not any(call.refusal for call in later)
        await rounds_until_free(arrivals)
        assert budget.used == 12 * 8 * MIB

    asyncio.run(body())
