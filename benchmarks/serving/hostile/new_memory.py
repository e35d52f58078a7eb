"""What the machine takes to give memory that nobody has written before."""

import time
from statistics import median

import numpy as np

# Arrays that are held at a time, as answers that nobody reads are, and those of them that count:
# the first may get what another process has just given back.
_HELD, _COUNTED = 64, 16
# MiB of an array, and seconds in which a machine with memory of its own writes it the first time.
_MIB, _OWN_SECONDS = 16, 0.008
# MiB of a page of the host.
_PAGE_MIB = 2


def new_memory_seconds() -> float:
    """Seconds in which 16 MiB are written for the first time. A virtual machine whose host takes
    free memory back asks for it again: 33 to 47 ms were seen, instead of 6 to 9. No server has a
    part in it, but each pays it for what it receives and answers."""
    held, took = [], []
    for _ in range(_HELD):
        began = time.perf_counter()
        held.append(np.ones(_MIB << 20, np.uint8))
        took.append(time.perf_counter() - began)
    return median(took[-_COUNTED:])


def page_of_host_seconds(new_memory: float) -> float:
    """Seconds that the host takes for one of its pages, of those of `new_memory_seconds`; 0 for a
    machine with memory of its own."""
    return max(0.0, new_memory - _OWN_SECONDS) * _PAGE_MIB / _MIB
