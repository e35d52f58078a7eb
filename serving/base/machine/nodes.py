"""The NUMA nodes of this machine: cores, and which devices are near them."""

import os
from collections.abc import Iterator
from pathlib import Path

_SYS = Path("/sys")
# Cores of a list that is read. No machine has as many; a file of somebody else could name more.
_MOST_CORES = 1 << 16


def node_cores(root: Path = _SYS) -> dict[int, tuple[int, ...]]:
    """The cores that this process may use, ascending, by the number of their node. Nodes without
    any are left out; where the system tells nothing, all cores are of node 0.

    root: where sysfs is mounted.
    """
    usable = os.sched_getaffinity(0)
    found = {}
    for folder in sorted((root / "devices" / "system" / "node").glob("node[0-9]*")):
        cores = tuple(core for core in _listed(folder / "cpulist") if core in usable)
        if cores and folder.name[4:].isdecimal():
            found[int(folder.name[4:])] = cores
    return dict(sorted(found.items())) or {0: tuple(sorted(usable))}


def node_of_device(address: str, root: Path = _SYS) -> int | None:
    """The node that a PCI device is at ("0000:65:00.0"); None where the system does not tell."""
    try:
        node = int((root / "bus" / "pci" / "devices" / address / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _listed(file: Path) -> Iterator[int]:
    """The numbers of a list such as "0-3,8", ascending; none where it cannot be read."""
    try:
        parts = [part.split("-") for part in file.read_text().split(",") if part.strip()]
        ranges = [range(int(part[0]), int(part[-1]) + 1) for part in parts]
    except (OSError, ValueError):
        return iter(())
    if sum(map(len, ranges)) > _MOST_CORES:
        return iter(())
    return iter(sorted({core for part in ranges for core in part}))
