"""Bytes that come in parts, in one place: unlike a list of parts it costs no more where they are
small, and is handed out without a copy."""

import io
from contextlib import suppress

from serving.base.machine.heap import MAPPED_BYTES

# Bytes that grow in the heap as they come, at most an eighth more than has come. More than that
# gets memory of its own where its size is known, mapped for the whole of it: the system gives what
# is written, and takes all back. Growing side by side they would leave holes in the heap as large
# as themselves, and be copied on their way to memory of their own, which takes up to 8 ms. A larger
# number leaves larger holes, a smaller one has page faults for common sizes, 1 us for each 4 KiB.
_GROWING = 1 << 20
# Bytes of a large one that have come before it gets its memory. Fewer let callers have more of it
# mapped by mere announcements, more leaves holes in the heap.
_BEGUN = 64 << 10


class Growing:
    """What has come so far.

    size: bytes in all, where they are announced; 0 where nobody knows.
    """

    __slots__ = ("_body", "_mapped", "_size")

    def __init__(self, size: int = 0) -> None:
        self._body = io.BytesIO()
        self._size = size
        self._mapped = size <= _GROWING

    def write(self, part: bytes | memoryview) -> int:
        """Appends a part; its bytes."""
        if not self._mapped and self._body.tell() + len(part) > _BEGUN:
            self._map()
        return self._body.write(part)

    def _map(self) -> None:
        come, self._mapped = self._body, True
        with suppress(MemoryError):  # addresses are few (`ulimit -v`): it goes on growing
            self._body = io.BytesIO(bytes(max(self._size, MAPPED_BYTES)))
            self._body.write(come.getbuffer())

    def take(self) -> bytes:
        """All of it. Nothing may be appended any more."""
        self._body.truncate()
        return self._body.getvalue()
