"""Slots: pieces of shared memory for the tensors of one call each.

The front makes slabs of slots of one size, and is the only one that says whether a slot is free.
A slab is a file without a name (memfd): nothing is left of it once nobody has it open, however its
processes end. Its size is sealed, so that neither side can take memory away from below the other.
"""

import contextlib
import fcntl
import functools
import mmap
import os
from collections.abc import Callable
from enum import Enum, auto

from serving.base.errors import QueueFull
from serving.remote.records import BadRecord
from serving.remote.tensors import PAGE, Views, aligned

# Bytes of a slab, unless one slot takes more. More make fewer files, fewer are sooner given back.
_SLAB_BYTES = 8 << 20
# Slots of a slab. More make fewer files of small slots.
_MOST_SLOTS = 64
# Bytes of slabs that stay when nobody uses them. More save page faults, fewer save memory.
_KEPT_BYTES = 64 << 20
# Seconds after which a call that found no slot may try again.
_RETRY_SECONDS = 0.1
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
# Bits of a record's size.
_LARGEST = (1 << 32) - PAGE


class SlotState(Enum):
    """FREE; FILLING: the front alone reads and writes it; LENT: the engine process may, until it
    has answered or is dead."""

    FREE = auto()
    FILLING = auto()
    LENT = auto()


class Slab:
    """A file of `count` slots of `size` bytes, mapped.

    number: its name in records.
    used: slots that are not free.
    views: the arrays in it.
    """

    def __init__(self, number: int, size: int, count: int) -> None:
        self.number, self.size, self.count = number, size, count
        self.used = 0
        self.file = sealed_memory("convserve-slab", size * count)
        try:
            self.memory = mmap.mmap(self.file, size * count)
            self.views = Views(self.memory)
        except BaseException:
            os.close(self.file)
            raise

    def close(self) -> None:
        """Frees it, as soon as no array lies in it any more."""
        os.close(self.file)
        self.views.clear()
        with contextlib.suppress(BufferError):
            self.memory.close()


class Slot:
    """One slot. The bytes of its slab from `offset` on are its own.

    generation: how often it was lent; an answer to an earlier call names another one.
    """

    __slots__ = ("generation", "index", "offset", "slab", "state")

    def __init__(self, slab: Slab, index: int) -> None:
        self.slab, self.index = slab, index
        self.offset = index * slab.size
        self.generation = 0
        self.state = SlotState.FREE


Told = Callable[[Slab], None]


class Slots:
    """All slots of a front.

    limit: bytes of all slabs together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._watchers: list[tuple[Told, Told]] = []
        self.slabs: dict[int, Slab] = {}
        self.bytes = 0
        self._free: dict[int, list[Slot]] = {}
        self._last = 0

    def watch(self, added: Told, removed: Told) -> None:
        """Tells of each new slab before its first slot is taken, and of each one that goes."""
        self._watchers.append((added, removed))

    def take(self, size: int) -> Slot:
        """A slot of at least `size` bytes, FILLING. Raises QueueFull where memory is used up."""
        size = _size_class(size)
        free = self._free.get(size)
        if not free:
            free = self._free[size] = self._more(size)
        slot = free.pop()
        slot.slab.used += 1
        slot.state = SlotState.FILLING
        return slot

    def lend(self, slot: Slot) -> None:
        """Gives a slot to an engine process."""
        slot.generation = (slot.generation + 1) & 0xFFFFFFFF
        slot.state = SlotState.LENT

    def reclaim(self, slot: Slot) -> None:
        """Takes a slot back from a process that is dead, as it was filled."""
        slot.state = SlotState.FILLING

    def free(self, slot: Slot) -> None:
        """Ends the use of a slot."""
        slab = slot.slab
        slot.state = SlotState.FREE
        slab.used -= 1
        self._free[slab.size].append(slot)
        if not slab.used and self.bytes > _KEPT_BYTES:
            self._remove(slab)

    def close(self) -> None:
        """Frees all memory. Nobody may use a slot any more."""
        for slab in self.slabs.values():
            slab.close()
        self.slabs.clear()
        self._free.clear()

    def _more(self, size: int) -> list[Slot]:
        count = max(1, min(_MOST_SLOTS, _SLAB_BYTES // size))
        if self.bytes + size * count > self._limit or size > _LARGEST:
            count = 1
            for slab in [slab for slab in self.slabs.values() if not slab.used]:
                self._remove(slab)
        if self.bytes + size > self._limit or size > _LARGEST:
            raise QueueFull(
                f"memory is short: {self.bytes} of {self._limit} bytes of slots are in use, "
                f"{size} more do not fit",
                _RETRY_SECONDS,
            )
        self._last += 1
        slab = self.slabs[self._last] = Slab(self._last, size, count)
        self.bytes += size * count
        for added, _ in self._watchers:
            added(slab)
        return [Slot(slab, index) for index in reversed(range(count))]

    def _remove(self, slab: Slab) -> None:
        self._free[slab.size] = [s for s in self._free[slab.size] if s.slab is not slab]
        del self.slabs[slab.number]
        self.bytes -= slab.size * slab.count
        for _, removed in self._watchers:
            removed(slab)
        slab.close()


class MappedSlab:
    """A slab of the front, in the engine process."""

    def __init__(self, file: int, size: int, count: int) -> None:
        """Maps a file, which stays the caller's. Raises BadRecord for one that is no slab."""
        self.size, self.count = size, count
        try:
            sealed = fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS == _SEALS
            if not sealed or not 0 < size * count == os.fstat(file).st_size or size % PAGE:
                raise BadRecord(f"a slab of {count} slots of {size} bytes in another file")
            self.memory = mmap.mmap(file, size * count)
            self.views = Views(self.memory)
        except (OSError, ValueError, OverflowError) as error:
            raise BadRecord(f"a file that is no slab: {error}") from error


def sealed_memory(name: str, size: int) -> int:
    """The descriptor of a new file in memory whose size nobody can change. Raises OSError."""
    file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file


@functools.lru_cache(1024)
def _size_class(size: int) -> int:
    """The bytes of a slot that takes `size`: at most a quarter more, in whole pages."""
    pages = max(1, aligned(size, PAGE) // PAGE)
    step = 1 << max(0, pages.bit_length() - 3)
    return aligned(pages, step) * PAGE
