"""The flight recorder: which calls an engine process was running when it died.

The engine process alone writes it, before each batch; the front reads it only once that process is
known to be dead. So nothing here needs an order between the two, and a batch costs no message.
"""

import mmap
import os
import struct
from collections.abc import Iterable

from serving.remote.slots import sealed_memory
from serving.remote.tensors import PAGE

# Versions that have a page of their own; others share one. Pages that nobody writes take no memory.
_PAGES = 4096
_BYTES = _PAGES * PAGE
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

    def running(self, model: int, calls: Iterable[int]) -> None:
        """Notes the calls of a version that run from now on, in place of those before."""
        noted = list(calls)[:_MOST]
        at = model % _PAGES * PAGE
        struct.pack_into(f"<{len(noted) + 1}Q", self._memory, at, len(noted), *noted)


def calls_at_death(file: int, models: Iterable[int]) -> set[int]:
    """The calls that were running. To be called once the process that wrote them is dead."""
    found: set[int] = set()
    with mmap.mmap(file, _BYTES, prot=mmap.PROT_READ) as memory:
        for page in {model % _PAGES for model in models}:
            [count] = _COUNT.unpack_from(memory, page * PAGE)
            found.update(
                struct.unpack_from(f"<{min(count, _MOST)}Q", memory, page * PAGE + _COUNT.size)
            )
    return found
