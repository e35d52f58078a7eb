"""Memory of the process: what glibc keeps of it once it is freed, and large blocks that are new.

With other C libraries than glibc nothing is done about the first.
"""

import ctypes

import numpy as np
from numpy.typing import NDArray

_library = ctypes.CDLL(None)
_trim = getattr(_library, "malloc_trim", None)
_option = getattr(_library, "mallopt", None) if _trim is not None else None
_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1
# Bytes from which a block is mapped by itself, and unmapped when it is freed. By default glibc
# keeps blocks of up to 32 MiB, once one was freed, in heaps whose holes grow: calls that held
# 360 MiB of bodies took 690, now 450. Less has page faults for more blocks: a body of 20 MiB that
# comes and goes takes 40 ms instead of 22.
MAPPED_BYTES = 4 << 20
# Bytes that are free at the end of a heap from which on they are given back. glibc's own 128 KiB
# are less than a photograph takes: its pages would be mapped anew each time, 46 page faults an
# image and 6 % of decoding it. More keeps more of what is free, once for each core.
_KEPT_BYTES = 4 * MAPPED_BYTES


def limit_arenas(cores: int) -> None:
    """Allows one heap for each core instead of eight. Each load starts threads, which would spread
    over all heaps and leave unused memory in each. To be called before threads start."""
    if _option is not None:
        _option(_M_ARENA_MAX, cores)


def map_large_blocks() -> None:
    """Has large blocks of memory given back to the system as soon as they are freed."""
    if _option is not None:
        _option(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        _option(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def trim_heap() -> None:
    """Gives freed memory back to the system."""
    if _trim is not None:
        _trim(0)


def empty(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A uint8 array whose values are not set, and whose memory is there. numpy asks for huge pages,
    for each of which a virtual machine may take 5 ms at the first write; where numpy writes, all
    other threads wait for the GIL meanwhile."""
    array = np.empty(shape, np.uint8)
    if array.nbytes >= MAPPED_BYTES:
        ctypes.memset(array.ctypes.data, 0, array.nbytes)  # without the GIL
    return array
