"""The flight recorder: which calls an engine process was running when it died.

The engine process alone writes it, before each batch; the front reads it only once that process is
known to be dead. So nothing here needs an order between the two, and a batch costs no message.
"""

import mmap
import os
import struct
from collections.abc import Iterable, Sequence

from serving.remote.slots import sealed_memory
from serving.remote.tensors import PAGE

# Versions that have two pages of their own, for numbers and times; others share them. Pages that
# nobody writes take no memory.
_VERSIONS = 4096
_PAGES = 2 * PAGE
_BYTES = _VERSIONS * _PAGES
_COUNT = struct.Struct("<Q")
# Calls of a version that run at a time. Further ones are not noted.
_MOST = PAGE // _COUNT.size - 1


def recorder_file() -> int:
    """The descriptor of an empty recorder."""
    return sealed_memory("convserve-flight", _BYTES)


class FlightRecorder:
    """Notes the calls in running batches."""

    def __init__(self, file: int) -> None:
        """Maps a recorder, and closes the file."""
        self._memory = mmap.mmap(file, _BYTES)
        os.close(file)

    def running(self, model: int, calls: Sequence[int], started: Sequence[float]) -> None:
        """Notes the calls of a version that run from now on, in place of those before.

        started: when the batch of each left the queue, monotonic seconds.
        """
        calls, started = calls[:_MOST], started[:_MOST]
        count, at = len(calls), model % _VERSIONS * _PAGES
        struct.pack_into(f"<{count}d", self._memory, at + PAGE, *started)
        struct.pack_into(f"<{count + 1}Q", self._memory, at, count, *calls)


def calls_at_death(file: int, models: Iterable[int]) -> dict[int, float]:
    """The calls that were running, and when the batch of each left the queue, monotonic seconds. To
    be called once the process that wrote them is dead."""
    found: dict[int, float] = {}
    with mmap.mmap(file, _BYTES, prot=mmap.PROT_READ) as memory:
        for at in {model % _VERSIONS * _PAGES for model in models}:
            count = min(_COUNT.unpack_from(memory, at)[0], _MOST)
            calls = struct.unpack_from(f"<{count}Q", memory, at + _COUNT.size)
            started = struct.unpack_from(f"<{count}d", memory, at + PAGE)
            found.update(zip(calls, started, strict=True))
    return found
