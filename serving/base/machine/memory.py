"""The memory that this process may use, and the memory that it uses."""

import contextlib
import functools
import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_MIB = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CGROUPS, _PROC = Path("/sys/fs/cgroup"), Path("/proc")


class _Group(NamedTuple):
    """The files of a control group: its limit, what it uses, and which part of that is cache."""

    limit: Path
    used: Path
    statistics: Path


# Of version 2 and 1: the controller in /proc/self/cgroup, the folder of its groups, limit and use.
_VERSIONS = (
    ("", "", "memory.max", "memory.current"),
    ("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def memory_limit(root: Path = _CGROUPS, proc: Path = _PROC) -> int:
    """Bytes that this process may use: those of the machine, bounded by the limits of its control
    groups, such as a container's or a systemd unit's."""
    limits = [_PAGE * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(root, proc):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(group.limit.read_text()))
    return max(_MIB, min(limits))


def free_memory(root: Path = _CGROUPS, proc: Path = _PROC) -> int:
    """Bytes that this process may still take: those of the machine that are free or can be freed,
    no more than its control groups and its own limit (`ulimit -v`) leave."""
    free = memory_limit(root, proc)
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
        free = min(free, int(lines["MemAvailable"].split()[0]) * 1024)
    for group in _groups(root, proc):
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such group, or no limit
            lines = dict(line.split() for line in group.statistics.read_text().splitlines())
            cached = int(lines.get("total_inactive_file", lines.get("inactive_file", "0")))
            taken = int(group.used.read_text()) - cached
            free = min(free, int(group.limit.read_text()) - taken)
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError):
            free = min(free, own - int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE)
    return max(0, free)


def _groups(root: Path, proc: Path) -> Iterator[_Group]:
    """The groups that bound this process: its own and all above it, up to the one at the root. A
    container sees its own group as the root, and may be told a path that is not there."""
    own = dict[str, PurePosixPath]()
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, named = line.split(":", 2)
            own |= dict.fromkeys(controllers.split(","), PurePosixPath(named.lstrip("/")))
    for controller, folder, limit, used in _VERSIONS:
        path = own.get(controller, PurePosixPath())
        # A process that was moved out of its container's group is told a way up from there.
        for place in [PurePosixPath()] if ".." in path.parts else [path, *path.parents]:
            group = root / folder / place
            yield _Group(group / limit, group / used, group / "memory.stat")


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
