"""Residual blocks, and networks without some of them, which miss them little (arXiv 1605.06431)."""

from collections.abc import Sequence

import timm.models.resnet as timm_resnet
from torch import nn
from torchvision.models import resnet

from serving.base.errors import quoted
from training.models.architectures import resnet_cifar

_BLOCKS = (
    resnet_cifar.BasicBlock,
    resnet.BasicBlock,
    resnet.Bottleneck,
    timm_resnet.BasicBlock,
    timm_resnet.Bottleneck,
)


def residual_blocks(network: nn.Module) -> dict[str, list[str]]:
    """The names of the blocks x + f(x) whose output has the channels and the size of their input,
    by their stage (the module that holds them), in order."""
    stages: dict[str, list[str]] = {}
    for name, module in network.named_modules():
        if isinstance(module, _BLOCKS) and _keeps_shape(module):
            stages.setdefault(name.rpartition(".")[0], []).append(name)
    return stages


def inner_channels(block: nn.Module) -> int:
    """The channels of the widest convolution of a residual block but its last."""
    inner = (block.conv1, block.conv2) if hasattr(block, "conv3") else (block.conv1,)
    return max(layer.out_channels for layer in inner if isinstance(layer, nn.Conv2d))


def replace_blocks(network: nn.Module, blocks: Sequence[str]) -> None:
    """Puts the identity in their place. ValueError for a name that is none of residual_blocks."""
    known = {name for stage in residual_blocks(network).values() for name in stage}
    for name in blocks:
        if name not in known:
            raise ValueError(f"{quoted(str(name))} is no residual block that can be left out")
        network.set_submodule(name, nn.Identity())


def _keeps_shape(block: nn.Module) -> bool:
    if isinstance(block, resnet_cifar.BasicBlock):
        return block.stride == 1 and block.added_channels == 0
    return bool(block.stride == 1 and block.downsample is None)
