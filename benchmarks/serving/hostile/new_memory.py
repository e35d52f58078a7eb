"""What the machine takes to give memory that nobody has written before."""

import time
from statistics import median

import numpy as np

# Arrays that are held at a time, as answers that nobody reads are, and those of them that count:
# the first may get what another process has just given back.
_HELD, _COUNTED = 64, 16


def new_memory_ms(mib: int = 16) -> float:
    """Milliseconds in which `mib` MiB are written for the first time. A virtual machine whose host
    takes free memory back has to ask for it again: 45 ms were seen for 16 MiB, instead of 6. No
    server has a part in it, but each that makes answers of that size pays it."""
    held, took = [], []
    for _ in range(_HELD):
        began = time.perf_counter()
        held.append(np.ones(mib << 20, np.uint8))
        took.append(time.perf_counter() - began)
    return median(took[-_COUNTED:]) * 1e3
