"""Long work on the event loop, slice by slice, with everything else in between."""

import asyncio


class Turns:
    """Hands out the event loop to work that would hold it up: one slice of one call in a round,
    however many calls have slices left, and in their order.

    Threads would be no better: the parsers of JSON and of text hold the GIL, so the event loop
    would wait for them all the same, and then also for its turn at the GIL.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def next(self) -> None:
        """Returns when the next slice may run. A slice should take less than a millisecond."""
        async with self._turn:
            await asyncio.sleep(0)
