"""Blocks instead of channels: a stage whose layers cannot lose a step of channels loses blocks."""

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from training.models.blocks import inner_channels, residual_blocks


def narrow_stages(network: nn.Module, step: int, kept: Collection[str]) -> dict[str, list[str]]:
    """The names of residual blocks by their stage, for the stages in which no layer between two
    sums has more than `step` channels. Blocks with a layer of `kept` (names) are left out."""
    return {
        stage: [block for block in blocks if not any(one.startswith(f"{block}.") for one in kept)]
        for stage, blocks in residual_blocks(network).items()
        if all(inner_channels(network.get_submodule(block)) <= step for block in blocks)
    }


def going(order: Sequence[str], ratio: float) -> list[str]:
    """The first of `order` that go where `ratio` of them is to go: one at least stays, and no more
    than the rest of the ratio."""
    stay = max(1, math.floor((1 - ratio) * len(order) + 1e-9))
    return list(order[: max(0, len(order) - stay)])


def least_missed_first(
    network: nn.Module, blocks: Sequence[str], batches: Sequence[Tensor]
) -> list[str]:
    """The blocks in the order in which they go: next is always the one without which, and without
    those before it, the answers to `batches` (normalised float32 NCHW) change least, in their mean
    square."""
    order: list[str] = []
    with torch.no_grad():
        whole = [network(images) for images in batches]

        def change(block: str) -> float:
            with _without(network, [*order, block]):
                return sum(
                    float((network(images) - answers).square().sum())
                    for images, answers in zip(batches, whole, strict=True)
                )

        while len(order) < len(blocks):
            order.append(min((one for one in blocks if one not in order), key=change))
    return order


@contextlib.contextmanager
def _without(network: nn.Module, blocks: Sequence[str]) -> Iterator[None]:
    """The network with blocks that give their input back."""
    hooks = [
        network.get_submodule(block).register_forward_hook(lambda module, given, made: given[0])
        for block in blocks
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
