"""System shared memory that callers have registered: tensors go through it instead of the wire."""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from serving.base.errors import InvalidInput

# Where POSIX shared memory objects lie on Linux.
_ROOT = Path("/dev/shm")


@dataclass(frozen=True)
class Region:
    """A registered part of a shared memory object: bytes [offset, offset + byte_size) of `key`."""

    name: str
    key: str
    offset: int
    byte_size: int


@dataclass(frozen=True)
class Place:
    """Where in a region one tensor lies."""

    region: str
    offset: int
    byte_size: int


class SharedMemory:
    """The registered regions. An object stays mapped for as long as its region is registered."""

    def __init__(self) -> None:
        self._regions: dict[str, tuple[Region, mmap.mmap]] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Maps a region. Raises InvalidInput for a name in use, a key that is no plain name of an
        existing object, or bytes that the object does not have."""
        if name in self._regions:
            raise InvalidInput(f"shared memory region {name!r} is registered already")
        plain = key.removeprefix("/")
        if not plain or "/" in plain or plain in (".", ".."):
            raise InvalidInput(f"shared memory key {key!r}: expected the name of an object")
        if byte_size < 1:
            raise InvalidInput(f"shared memory region {name!r}: byte_size {byte_size}")
        try:
            descriptor = os.open(_ROOT / plain, os.O_RDWR | os.O_NOFOLLOW)
        except OSError as error:
            raise InvalidInput(
                f"shared memory object {key!r} cannot be opened: {error.strerror}"
            ) from error
        try:
            size = os.fstat(descriptor).st_size
            if offset + byte_size > size:
                raise InvalidInput(
                    f"shared memory region {name!r}: bytes {offset} to {offset + byte_size} "
                    f"asked for, the object {key!r} has {size}"
                )
            mapped = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._regions[name] = Region(name, key, offset, byte_size), mapped

    def unregister(self, name: str) -> None:
        """Forgets a region, or every one where the name is empty. One that is not registered is
        passed over, as Triton does. A tensor that still views it keeps the mapping alive."""
        for region in [name] if name else list(self._regions):
            self._regions.pop(region, None)

    def regions(self, name: str = "") -> list[Region]:
        """One region, or all. Raises InvalidInput for a name that is not registered."""
        if name and name not in self._regions:
            raise InvalidInput(f"no shared memory region {name!r} is registered")
        return [r for r, _ in self._regions.values() if name in ("", r.name)]

    def read(self, place: Place) -> memoryview:
        """A view of the bytes of a tensor. Raises InvalidInput where they are out of bounds."""
        return self._view(place)

    def write(self, place: Place, data: bytes) -> None:
        """Writes a tensor. Raises InvalidInput where it does not fit into its place."""
        if len(data) > place.byte_size:
            raise InvalidInput(
                f"output takes {len(data)} bytes, its place in shared memory region "
                f"{place.region!r} has {place.byte_size}"
            )
        self._view(place)[: len(data)] = data

    def _view(self, place: Place) -> memoryview:
        held = self._regions.get(place.region)
        if held is None:
            raise InvalidInput(f"no shared memory region {place.region!r} is registered")
        region, mapped = held
        end = place.offset + place.byte_size
        if place.offset < 0 or place.byte_size < 0 or end > region.byte_size:
            raise InvalidInput(
                f"bytes {place.offset} to {end} asked for, shared memory region "
                f"{place.region!r} has {region.byte_size}"
            )
        begin = region.offset + place.offset
        return memoryview(mapped)[begin : begin + place.byte_size]
