"""The memory that this process may use, and the memory that it uses."""

import contextlib
import functools
import os
import resource
from pathlib import Path

_MIB = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
# The limit files of control groups, version 2 and 1, below their root. A container sees its own
# group as the root.
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
# The same with the files of what the group uses, and of which part of it is cache.
_GROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
    ),
)


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may use: those of the machine, bounded by its container's limit."""
    limits = [_PAGE * os.sysconf("SC_PHYS_PAGES")]
    for name in _LIMITS:
        try:
            limits.append(int((root / name).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(_MIB, min(limits))


def free_memory(root: Path = Path("/sys/fs/cgroup"), machine: Path = Path("/proc/meminfo")) -> int:
    """Bytes that this process may still take: those of the machine that are free or can be freed,
    no more than its container's limit and its own (`ulimit -v`) leave."""
    free = memory_limit(root)
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":") for line in machine.read_text().splitlines())
        free = min(free, int(lines["MemAvailable"].split()[0]) * 1024)
    for limit, used, statistics in _GROUPS:
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such group, or no limit
            lines = dict(line.split() for line in (root / statistics).read_text().splitlines())
            cached = int(lines.get("total_inactive_file", lines.get("inactive_file", "0")))
            taken = int((root / used).read_text()) - cached
            free = min(free, int((root / limit).read_text()) - taken)
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError):
            free = min(free, own - int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE)
    return max(0, free)


def own_bytes() -> int:
    """Bytes that this process has in RAM for itself alone, without the files that it maps; 0 where
    the system has no /proc. Takes 3 us, and gives the GIL away once."""
    try:
        _, resident, shared, *_ = os.pread(_sizes(), 100, 0).split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE


@functools.cache
def _sizes() -> int:
    """A descriptor of the sizes of this process in pages: in all, in RAM, of that in files, ..."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
