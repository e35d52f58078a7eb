"""Attention layers under pruning: whole heads go where the pruner knows how a layer keeps them.

In other attention, and in every layer that reads or writes a residual stream with learned values of
its own (positions, class tokens, scales), channels stay: the dependency graph does not know their
places. What is left of a transformer is its heads and the widths of its MLPs.
"""

from collections.abc import Hashable
from typing import Any, TypeGuard

import torch_pruning
from timm.layers.attention import Attention
from torch import nn
from torch_pruning.dependency import Group, graph

from training.errors import TargetNotReached

# Indices of channels in one group, about 100 bytes each, and those that a dependency counts for at
# least, for its time. DenseNets and ResNet-152 have a tenth.
_MOST_INDICES, _LEAST_COUNTED = 4_000_000, 32

PROJECTIONS = (nn.Linear, nn.Conv2d)


def head_layers_of(network: nn.Module) -> dict[nn.Module, int]:
    """The layers that make queries, keys and values of all heads at once, and the number of heads
    of each: vision transformers (arXiv 2010.11929) and those that timm builds of the same layer."""
    return {module.qkv: module.num_heads for module in network.modules() if _is_known(module)}


def _is_known(module: nn.Module) -> TypeGuard[Attention]:
    plain = type(module) is Attention and module.gate is None
    return plain and isinstance(module.norm, nn.Identity)


def layers_that_stay(pruner: torch_pruning.pruner.BasePruner, network: nn.Module) -> set[nn.Module]:
    """The layers whose output channels must stay, since what depends on them has another layout."""
    heads = head_layers_of(network)
    inside = {
        layer
        for module in network.modules()
        if hasattr(module, "num_heads") and not _is_known(module)
        # A block that holds the attention may tell the number as well.
        if not any(hasattr(part, "num_heads") for part in module.modules() if part is not module)
        for layer in module.modules()
        if isinstance(layer, PROJECTIONS)
    }
    stay = set[nn.Module]()
    groups = pruner.DG.get_all_groups(
        ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types
    )
    for group in groups:
        touched = [dep.target.module for dep, _ in group]
        if any(isinstance(module, nn.Parameter) or module in inside for module in touched):
            stay |= {
                dep.target.module
                for dep, _ in group
                if pruner.DG.is_out_channel_pruning_fn(dep.handler)
                and isinstance(dep.target.module, nn.Module)
            }
    return stay - heads.keys()


def head_ratio(heads: dict[nn.Module, int], ratio: float) -> float:
    """The share of the heads that goes, at most so many that each layer keeps one."""
    # A little less than all but one: the pruner rounds what is left down.
    return min(ratio, 1 - 1.001 / min(heads.values())) if heads else 0.0


def follow_heads(network: nn.Module, heads: dict[Any, int]) -> None:
    """Tells attention layers how many heads they have left. Raises TargetNotReached where one has
    none."""
    for module in network.modules():
        if _is_known(module) and module.qkv in heads:
            if heads[module.qkv] < 1:
                raise TargetNotReached(
                    "prune: an attention layer would lose all its heads; take a smaller ratio, or "
                    "scope uniform"
                )
            module.num_heads = heads[module.qkv]
            module.attn_dim = module.qkv.out_features // 3


class _BoundedGroup(Group):  # type: ignore[misc]
    """Ends the search for dependent channels where their indices multiply without end, as reshapes
    in some attention make them do upstream. Dependencies that were seen are looked up, where
    upstream goes through all of them for each one."""

    def __init__(self) -> None:
        super().__init__()
        self._indices = 0
        self._seen = set[Hashable]()

    def add_dep(self, dep: Any, idxs: Any) -> None:
        self._indices += max(len(idxs), _LEAST_COUNTED)
        if self._indices > _MOST_INDICES:
            raise OverflowError("the indices of dependent channels multiply without end")
        self._seen.add((dep.target, dep.handler, tuple(idxs)))
        super().add_dep(dep, idxs)

    def has_pruning_op(self, dep: Any, idxs: Any) -> bool:
        return (dep.target, dep.handler, tuple(idxs)) in self._seen


# The library makes its groups by this name.
graph.Group = _BoundedGroup
