"""System shared memory that callers have registered: tensors go through it instead of the wire.

The bytes are read and written by system calls and not through a mapping: a caller may cut the
object short at any moment, and touching a mapping behind its end kills the process with SIGBUS. A
tensor of 600 KB takes 33 µs more to read and 36 µs more to write (Xeon, 2 cores).
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from serving.base.errors import InvalidInput

# Where POSIX shared memory objects lie on Linux.
_ROOT = Path("/dev/shm")
# O_NONBLOCK: opening must not wait for whatever stands there instead of an object.
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Region:
    """A registered part of a shared memory object.

    name: the caller's name for it.
    key: the object, a name in /dev/shm with or without a slash before it.
    offset: bytes of the object before the region.
    byte_size: bytes of the region.
    """

    name: str
    key: str
    offset: int
    byte_size: int


@dataclass(frozen=True)
class Place:
    """The place of one tensor in a region.

    region: the region's name.
    offset: bytes of the region before the tensor.
    byte_size: bytes that the tensor may take.
    """

    region: str
    offset: int
    byte_size: int


class SharedMemory:
    """The registered regions. An object stays open for as long as its region is registered, also
    when it is deleted or another one takes its name."""

    def __init__(self) -> None:
        # Each region with the file descriptor of its object.
        self._regions: dict[str, tuple[Region, int]] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Opens a region. Raises InvalidInput for a name that is empty or in use, a key that is no
        plain name of an existing object, or bytes that the object does not have."""
        where = f"shared memory region {name!r:.200}"
        if not name:
            raise InvalidInput(
                "shared memory region: expected a name; the empty one stands for all"
            )
        if name in self._regions:
            raise InvalidInput(f"{where} is registered already")
        if offset < 0:
            raise InvalidInput(f"{where}: expected an offset from 0, got {offset!s:.40}")
        if byte_size < 1:
            raise InvalidInput(f"{where}: expected a byte_size from 1, got {byte_size!s:.40}")
        descriptor = _open(key)
        size = os.fstat(descriptor).st_size
        if offset + byte_size > size:
            os.close(descriptor)
            raise InvalidInput(
                f"{where}: bytes {offset!s:.40} to {offset + byte_size!s:.40} asked for, "
                f"the object {key!r:.200} has {size}"
            )
        self._regions[name] = Region(name, key, offset, byte_size), descriptor

    def unregister(self, name: str) -> None:
        """Forgets a region, or every one where the name is empty. One that is not registered is
        passed over, as Triton does."""
        for region in [name] if name else list(self._regions):
            _, descriptor = self._regions.pop(region, (None, None))
            if descriptor is not None:
                os.close(descriptor)

    def regions(self, name: str = "") -> list[Region]:
        """One region, or all. Raises InvalidInput for a name that is not registered."""
        if name and name not in self._regions:
            raise InvalidInput(f"no shared memory region {name!r:.200} is registered")
        return [r for r, _ in self._regions.values() if name in ("", r.name)]

    def read(self, place: Place) -> bytes:
        """The bytes of a tensor. Raises InvalidInput where they are out of bounds, or the object
        does not have them any more."""
        region, descriptor, begin = self._find(place)
        try:
            data = os.pread(descriptor, place.byte_size, begin)
        except (OSError, MemoryError) as error:
            raise InvalidInput(f"{_named(region)} cannot be read: {error}") from error
        if len(data) < place.byte_size:
            raise _too_short(region, begin + place.byte_size, os.fstat(descriptor).st_size)
        return data

    def write(self, place: Place, data: bytes) -> None:
        """Writes a tensor. Raises InvalidInput where it does not fit into its place, or the object
        does not have that place any more."""
        if len(data) > place.byte_size:
            raise InvalidInput(
                f"output takes {len(data)} bytes, its place in shared memory region "
                f"{place.region!r:.200} has {place.byte_size}"
            )
        region, descriptor, begin = self._find(place)
        # Writing behind the end would make the object longer.
        size = os.fstat(descriptor).st_size
        if begin + len(data) > size:
            raise _too_short(region, begin + len(data), size)
        left = memoryview(data)
        try:
            while left:
                written = os.pwrite(descriptor, left, begin)
                left, begin = left[written:], begin + written
        except OSError as error:
            raise InvalidInput(f"{_named(region)} cannot be written: {error.strerror}") from error

    def _find(self, place: Place) -> tuple[Region, int, int]:
        """The region, its descriptor, and where in its object the place begins."""
        held = self._regions.get(place.region)
        if held is None:
            raise InvalidInput(f"no shared memory region {place.region!r:.200} is registered")
        region, descriptor = held
        end = place.offset + place.byte_size
        if place.offset < 0 or place.byte_size < 0 or end > region.byte_size:
            raise InvalidInput(
                f"bytes {place.offset!s:.40} to {end!s:.40} asked for, {_named(region)} has "
                f"{region.byte_size}"
            )
        return region, descriptor, region.offset + place.offset


def _open(key: str) -> int:
    """A descriptor of a shared memory object, which is a regular file in _ROOT."""
    plain = key.removeprefix("/")
    if not plain or "/" in plain or "\0" in plain or plain in (".", ".."):
        raise InvalidInput(f"shared memory key {key!r:.200}: expected the name of an object")
    try:
        descriptor = os.open(_ROOT / plain, _OPEN)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(
            f"shared memory object {key!r:.200} cannot be opened: {reason}"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"shared memory key {key!r:.200}: expected the name of an object")
    return descriptor


def _named(region: Region) -> str:
    return f"shared memory region {region.name!r:.200}"


def _too_short(region: Region, end: int, size: int) -> InvalidInput:
    return InvalidInput(
        f"{_named(region)} ends at byte {end} of the object {region.key!r:.200}, which was cut "
        f"to {size}"
    )
