"""Looks at a process, and whether it stays as it is."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Growth from the first sixth to the end that chance may bring: MiB of memory that is no file,
# descriptors, threads.
MEMORY_MIB, FILES, THREADS = 6.0, 4.0, 2.0


@dataclass(frozen=True)
class Look:
    """A process at a moment: seconds since the start, MiB that are no file, descriptors,
    threads."""

    at: float
    memory: float
    files: float
    threads: float


def look(pid: int, at: float) -> Look:
    """Looks at a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    memory, threads = (
        int(text.split(f"\n{name}:")[1].split()[0]) for name in ("RssAnon", "Threads")
    )
    files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    return Look(at, memory / 1024, files, threads)


def grown(looks: Sequence[Look]) -> list[str]:
    """What is not level from the end of the first sixth on: medians of the quarters at both ends
    of the rest are compared."""
    later = looks[len(looks) // 6 :]
    quarter = max(1, len(later) // 4)
    faults = []
    for name, most in (("memory", MEMORY_MIB), ("files", FILES), ("threads", THREADS)):
        first, last = (
            statistics.median(getattr(one, name) for one in part)
            for part in (later[:quarter], later[-quarter:])
        )
        if last - first > most:
            faults.append(f"{name} grew from {first:.1f} to {last:.1f}, by more than {most:g}")
    return faults
