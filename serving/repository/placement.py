"""The devices of a model's instances, from instance_group and optimization of config.pbtxt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidModelConfig


@dataclass(frozen=True)
class Placement:
    """The devices of a model's instances.

    kind: "auto" uses GPUs where an engine for them can run, else the CPU.
    gpus: the GPU of each instance; empty puts the config's number of instances on every GPU.
    graph_batch_sizes: batch sizes that get a CUDA graph.
    """

    kind: Literal["auto", "gpu", "cpu"] = "auto"
    gpus: tuple[int, ...] = ()
    graph_batch_sizes: tuple[int, ...] = ()


def placement_of(path: Path, proto: pb.ModelConfig) -> Placement:
    """Reads instance_group; `path` is for messages. Raises InvalidModelConfig."""
    group_of = pb.ModelInstanceGroup
    on_gpus = [g for g in proto.instance_group if g.kind == group_of.KIND_GPU or g.gpus]
    gpus: list[int] = []
    for index, group in enumerate(proto.instance_group):
        where = f"{path}: instance_group[{index}].gpus"
        if any(number < 0 for number in group.gpus):
            raise InvalidModelConfig(f"{where}: expected 0 or more, got {list(group.gpus)}")
        if group.gpus and group.kind == group_of.KIND_CPU:
            raise InvalidModelConfig(f"{where}: a group of KIND_CPU has none")
        gpus += [number for number in group.gpus for _ in range(group.count or 1)]
    if on_gpus and len(on_gpus) < len(proto.instance_group):
        raise InvalidModelConfig(
            f"{path}: instance_group: expected all groups on GPUs or none, since one engine serves "
            "a model"
        )
    if gpus and any(not group.gpus for group in on_gpus):
        raise InvalidModelConfig(f"{path}: instance_group: expected gpus in every group or in none")
    kind: Literal["auto", "gpu", "cpu"] = "gpu" if on_gpus else "auto"
    if any(group.kind == group_of.KIND_CPU for group in proto.instance_group):
        kind = "cpu"
    return Placement(kind, tuple(gpus), _graph_batch_sizes(path, proto))


def _graph_batch_sizes(path: Path, proto: pb.ModelConfig) -> tuple[int, ...]:
    """The sizes that optimization.cuda names; without any, the powers of two up to the largest."""
    largest = max(1, proto.max_batch_size)
    if not proto.optimization.cuda.graphs:
        return ()
    sizes = sorted({spec.batch_size for spec in proto.optimization.cuda.graph_spec})
    for size in sizes:
        if not 1 <= size <= largest:
            raise InvalidModelConfig(
                f"{path}: optimization.cuda.graph_spec.batch_size: expected 1 to "
                f"max_batch_size ({proto.max_batch_size}), got {size}"
            )
    return tuple(sizes or sorted({2**i for i in range(largest.bit_length())} | {largest}))
