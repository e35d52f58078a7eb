"""The engine gets the next batch shortly before the one that runs ends, so that a core without rows
does not wait until the event loop brings some."""

import asyncio
from collections.abc import Callable

from serving.batching.batch import Batch
from serving.batching.execution import Executed

# Seconds before the expected end of a batch. Earlier the next one is smaller, since fewer calls
# have come; later it comes too late, as timers have steps of a millisecond. ResNet-56 on two cores:
# a tenth more answers for calls of 16 images, a twentieth more for single ones.
_AHEAD_SECONDS = 2e-3
# Batches that take less time have no next one ahead of their end.
_LEAST_SECONDS = 2 * _AHEAD_SECONDS


class Overlap:
    """What a batcher knows of the end of its batches.

    wanted: whether the engine can take the next batch early; otherwise none is about to end.
    ending: the batch that is about to end, and has given back its instance and its cores.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self.ending: set[Batch] = set()
        # When the engine was done with the last batch that has come back.
        self._done = 0.0

    def begins(self, now: float) -> float:
        """When the engine begins with a batch that it gets now, most likely."""
        return max([now, *(batch.ends for batch in self.ending)])

    def expect(self, batch: Batch, about_to_end: Callable[[Batch], None]) -> None:
        """Calls `about_to_end` shortly before a batch that starts now ends."""
        if self._wanted and batch.seconds >= _LEAST_SECONDS:
            ahead = batch.seconds - _AHEAD_SECONDS
            asyncio.get_running_loop().call_later(ahead, about_to_end, batch)

    def seconds(self, executed: Executed) -> float:
        """How long the engine worked on a batch that has come back: without the time for which it
        had the one before as well."""
        begins = max(executed.began, self._done) if self._wanted else executed.began
        ends = executed.began + executed.infer
        self._done = max(self._done, ends)
        return max(0.0, ends - begins)
