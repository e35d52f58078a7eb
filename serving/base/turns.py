"""Long work on the event loop, slice by slice, with everything else in between."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from serving.base.growing import Growing
from serving.base.machine.cpu import core_count

# Bytes that are copied in one turn, 0.2 ms where their memory is new. More hold up other calls,
# fewer cost more rounds of the event loop.
_SLICE_BYTES = 512 << 10
Item = TypeVar("Item")
Result = TypeVar("Result")

# Items of `together` under way at a time, for each core. Fewer leave cores idle, more begin and end
# in one round of the event loop: with 16, 256 images of a call hold it up for 25 ms.
_WIDTH = 4 * core_count()
# Seconds for which long work leaves the event loop to others. In less than the 1 ms that the loop's
# clock counts, it would not come to rest, and threads that wait for the GIL do not get it for up to
# 80 ms: the loop takes it again before they are awake. More makes long work longer.
_REST_SECONDS = 0.001


class Turns:
    """Hands out the event loop to work that would hold it up: one slice of one call in a round,
    however many calls have slices left, and in their order.

    Threads would be no better: the parsers of JSON and of text hold the GIL, so the event loop
    would wait for them all the same, and then also for its turn at the GIL.

    others: whether other calls are under way. They get more than half of the event loop's time.
    """

    def __init__(self, others: Callable[[], bool] = lambda: False) -> None:
        self._turn = asyncio.Lock()
        self._others = others

    async def next(self) -> None:
        """Returns when the next slice may run. A slice should take less than a millisecond."""
        async with self._turn:
            await asyncio.sleep(_REST_SECONDS if self._others() else 0)


async def joined(parts: Sequence[bytes | memoryview], turns: Turns) -> bytes:
    """The parts as one, slice by slice where they are long: in one go, new memory of 31 MiB would
    take 15 ms. Nobody may change them meanwhile."""
    size = sum(map(len, parts))
    if size <= _SLICE_BYTES:
        return b"".join(parts)
    whole, written = Growing(size), 0
    for part in parts:
        view = memoryview(part)
        for begin in range(0, len(view), _SLICE_BYTES):
            if written >= _SLICE_BYTES:
                written = 0
                await turns.next()
            written += whole.write(view[begin : begin + _SLICE_BYTES])
    return whole.take()


class Readers:
    """Lets connections that were paused because much has come go on: one in a round of the event
    loop, in their order. Were they all to read in one round, each 256 KiB, 64 of them would take
    60 ms of it."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, go_on: Callable[[], None]) -> None:
        """Calls `go_on` when it is its turn, in a later round."""
        self._waiting.append(go_on)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        go_on = self._waiting[0]
        try:
            go_on()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._next)


class Copies:
    """Bounds the bytes that are copied in one round of the event loop: the first long copy of a
    round is its last."""

    # Bytes of a long copy; it takes about _LONG_SECONDS. Fewer put off messages of common sizes,
    # more add up to longer pauses.
    _LONG_BYTES = 1 << 20
    _LONG_SECONDS = 0.0005

    def __init__(self) -> None:
        self.round_is_full = False

    async def turn(self, size: int) -> None:
        """Returns when `size` bytes may be copied in one go, in the same step of the event loop."""
        if size < self._LONG_BYTES:
            return
        while self.round_is_full:
            await asyncio.sleep(0)
        self._fill_round()

    def took(self, began: float) -> bool:
        """Says whether a copy that began then, in monotonic seconds, was a long one. It is the last
        one of this round."""
        if time.monotonic() - began < self._LONG_SECONDS:
            return False
        self._fill_round()
        return True

    def _fill_round(self) -> None:
        self.round_is_full = True
        asyncio.get_running_loop().call_soon(self._begin_round)

    def _begin_round(self) -> None:
        self.round_is_full = False


async def together(
    work: Callable[[Item], Awaitable[Result]], items: Sequence[Item]
) -> list[Result]:
    """The results of `work` for all items, in their order. The first failure cancels the others and
    is raised; `asyncio.gather` would let them go on."""
    if len(items) == 1:
        return [await work(items[0])]
    found: dict[int, Result] = {}
    left = iter(range(len(items)))

    async def some() -> None:
        for i in left:
            found[i] = await work(items[i])

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_WIDTH, len(items))):
                group.create_task(some())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [found[i] for i in range(len(items))]
