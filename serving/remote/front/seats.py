"""Where engine processes run: the GPUs and cores of each."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from serving.base.machine.cpu import core_count
from serving.base.machine.nodes import node_cores, node_of_device
from serving.base.machine.nvml import Gpu, pci_address

Item = TypeVar("Item")


@dataclass(frozen=True)
class Seat:
    """One engine process, as it is started.

    name: in /readyz and the log.
    about: what its log lines say of it.
    cores: that it may use; none for all. The kernel takes memory from the node of the core that
        first writes to it, so that an engine's lies near its cores.
    environment: its variables, beside those of the front.
    settings: of the server that are its own.
    place: what it is told of its GPUs.
    """

    name: str = "engine"
    about: Mapping[str, str] = field(default_factory=dict)
    cores: Sequence[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    place: Mapping[str, Any] = field(default_factory=dict)


class TooManyEngines(Exception):
    """More engine processes than there are GPUs for; the text has the number of those."""


def seats(
    count: int, gpus: Sequence[Gpu], *, threads: int, memory_bytes: int, root: Path = Path("/sys")
) -> Sequence[Seat]:
    """The engine processes of a server.

    count: as many; 0 takes one for each GPU, or where there is none for each NUMA node.
    threads, memory_bytes: CPU threads of all engines, 0 for one a core, and memory of all calls.
    root: where sysfs is mounted.
    Raises TooManyEngines.
    """
    nodes = node_cores(root)
    count = count or len(gpus) or len(nodes)
    if gpus and count > len(gpus):
        raise TooManyEngines(f"expected at most {len(gpus)}, the GPUs here")
    if count == 1:
        return [Seat()]
    threads = max(1, (threads or core_count()) // count)
    of_each = _shared_out(gpus, count)
    cores = [_near(group, nodes, root) for group in of_each] if gpus else _cores(nodes, count)
    made = []
    for number, (group, own) in enumerate(zip(of_each, cores, strict=True)):
        name = f"engine {number}"
        settings = {
            "threads": min(threads, len(own)) if own else threads,
            "memory_mib": max(1, memory_bytes // count >> 20),
        }
        seat = Seat(name, {"engine_process": name}, own, settings=settings)
        if gpus:
            seat = Seat(
                name,
                {"engine_process": name},
                own,
                {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in group)},
                settings,
                {"gpus": [gpu.index for gpu in group], "gpu_count": len(gpus)},
            )
        made.append(seat)
    return made


def _near(gpus: Sequence[Gpu], nodes: Mapping[int, Sequence[int]], root: Path) -> Sequence[int]:
    """The cores of the node that all these GPUs are at; none where there is no such node, or no
    other one."""
    at = {node_of_device(pci_address(gpu), root) for gpu in gpus}
    node = at.pop() if len(at) == 1 else None
    return nodes.get(node, ()) if node is not None and len(nodes) > 1 else ()


def _cores(nodes: Mapping[int, Sequence[int]], count: int) -> Sequence[Sequence[int]]:
    """The cores of each engine process: of a node each, or as even a part of all, node by node."""
    if count == len(nodes):
        return list(nodes.values())
    every = [core for cores in nodes.values() for core in cores]
    return _shared_out(every, count) if len(every) >= count else [()] * count


def _shared_out(items: Sequence[Item], count: int) -> Sequence[Sequence[Item]]:
    """`items` in so many parts, in their order."""
    size = len(items) / count
    bounds = [math.floor(number * size) for number in range(count)] + [len(items)]
    return [items[begin:end] for begin, end in itertools.pairwise(bounds)]
