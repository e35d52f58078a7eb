"""Attention blocks that weigh the channels, or channels and places, of a feature map.

"se", squeeze-and-excitation (Hu et al. 2017, arXiv 1709.01507), is torchvision's; "cbam" (Woo et
al. 2018, arXiv 1807.06521) is ours.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import SqueezeExcitation

from training.models.architectures import resnet_cifar

ATTENTION = ("se", "cbam")

NO_PRUNING_WITH_CBAM = (
    "cbam's spatial attention reads the mean and the maximum over all channels, which the "
    "dependency graph of the pruner cannot follow; attention: se can be pruned"
)

_REDUCTION = 16
_FEWEST_HIDDEN = 8
_SPATIAL_KERNEL = 7


class Attention(nn.Sequential):
    """A block that is inserted into a network; its type tells it from the network's own blocks."""


class ChannelAttention(nn.Module):
    """CBAM's equation 2: one small network over averages and maxima of the channels, summed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _hidden(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        average = self.mlp(x.mean((2, 3), keepdim=True))
        largest = self.mlp(x.amax((2, 3), keepdim=True))
        return x * torch.sigmoid(average + largest)


class SpatialAttention(nn.Module):
    """CBAM's equation 3: a 7×7 convolution over the mean and the maximum of all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, _SPATIAL_KERNEL, padding=_SPATIAL_KERNEL // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.conv(summary))


def attentive(
    build: Callable[..., nn.Module],
    num_classes: int,
    attention: str | None = None,
    **options: object,
) -> nn.Module:
    """A ResNet or VGG of `build` with attention: in a residual block before its sum, as in both
    papers; in VGG, for which they say nothing, before every pooling. `build` gets the options.

    ValueError for an attention that is neither "se" nor "cbam".
    """
    if attention is not None and attention not in ATTENTION:
        raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, got {attention!r}")
    network = build(num_classes=num_classes, **options)
    if attention is not None:
        _add(network, attention)
    return network


def _add(network: Any, kind: str) -> None:
    for block in list(network.modules()):
        if isinstance(block, resnet.BasicBlock | resnet_cifar.BasicBlock):
            block.bn2 = nn.Sequential(block.bn2, _block(kind, block.conv2.out_channels))
        elif isinstance(block, resnet.Bottleneck):
            block.bn3 = nn.Sequential(block.bn3, _block(kind, block.conv3.out_channels))
    channels = 0
    for index, layer in enumerate(getattr(network, "features", ())):
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        elif isinstance(layer, nn.MaxPool2d):
            network.features[index] = nn.Sequential(_block(kind, channels), layer)


def _block(kind: str, channels: int) -> Attention:
    if kind == "se":
        return Attention(SqueezeExcitation(channels, _hidden(channels)))
    return Attention(ChannelAttention(channels), SpatialAttention())


def _hidden(channels: int) -> int:
    return max(channels // _REDUCTION, _FEWEST_HIDDEN)
