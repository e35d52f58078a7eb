"""The memory that this process may use, and the memory that it uses."""

import os
from pathlib import Path

_MIB = 1 << 20
# The limit files of control groups, version 2 and 1, below their root. A container sees its own
# group as the root.
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may use: those of the machine, bounded by its container's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in _LIMITS:
        try:
            limits.append(int((root / name).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(_MIB, min(limits))
