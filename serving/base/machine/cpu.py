"""The processor: its name, the cores that this process may use, and the time that it gets."""

import contextlib
import math
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

_THREADS = Path("/proc/self/task")


class CoreTime(NamedTuple):
    """Seconds of one thread.

    ran: on a core. waited: ready to run, while others had the cores.
    """

    ran: float
    waited: float


def machine() -> str:
    """The processor's name and the cores that this process may use ("AMD EPYC, 2 cores")."""
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    cores = core_count()
    return f"{name}, {cores} core{'' if cores == 1 else 's'}"


def core_count() -> int:
    """Cores that this process may use: those of the machine, bounded by a container's CPU set and
    quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, math.ceil(quota_cores(Path("/sys/fs/cgroup")))))


def quota_cores(root: Path) -> float:
    """Cores by the CPU quota of a control group, version 2 or 1. sys.maxsize where there is no
    quota."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return sys.maxsize
    return float(quota) / float(period) if quota not in ("max", "-1") else sys.maxsize


def thread_times() -> dict[str, CoreTime]:
    """The times of every thread of this process by its number; empty where the system does not
    tell. Takes some 10 us a thread."""
    times = {}
    with contextlib.suppress(OSError):
        for entry in _THREADS.iterdir():
            # A thread may have ended by now.
            with contextlib.suppress(OSError, ValueError):
                ran, waited, _ = (entry / "schedstat").read_text().split()
                times[entry.name] = CoreTime(int(ran) / 1e9, int(waited) / 1e9)
    return times
