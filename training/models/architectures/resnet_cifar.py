"""Residual networks for 32×32 images (He et al. 2015, arXiv 1512.03385, §4.2).

Depth 6n + 2: a 3×3 stem, three stages of n basic blocks with 16, 32 and 64 channels at strides 1, 2
and 4, global average pooling and one linear layer. Parameters for 10 classes: ResNet-20 0.27 M,
ResNet-32 0.46 M, ResNet-44 0.66 M, ResNet-56 0.85 M, ResNet-110 1.7 M (the paper's Table 6).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGE_CHANNELS = (16, 32, 64)
SHORTCUTS = ("zeros", "projection")


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut: [N, C, H, W] to [N, C', H/s, W/s].

    Where the shape changes, the shortcut takes every `stride`-th pixel and adds zero channels, half
    of the new ones before and half after, the layout in which published weights were trained (the
    paper's option A). A `projection` there is a 1×1 convolution that begins as exactly that.
    """

    projection: nn.Conv2d | None

    def __init__(self, in_channels: int, out_channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.added_channels = out_channels - in_channels
        changes = stride > 1 or in_channels != out_channels
        self.projection = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if projection and changes
            else None
        )

    def shortcut(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            projected: Tensor = self.projection(x)
            return projected
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.added_channels:
            before = self.added_channels // 2
            x = functional.pad(x, (0, 0, 0, 0, before, self.added_channels - before))
        return x

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of `depth` 6n + 2: float32 [N, 3, H, W] to logits [N, num_classes].

    Attribute names are those of the published checkpoints: conv1, bn1, layer1 to layer3, linear.
    ValueError when `depth` is not 6n + 2 with n ≥ 1, or `shortcut` none of SHORTCUTS.
    """

    def __init__(self, depth: int, num_classes: int = 10, shortcut: str = "zeros") -> None:
        blocks, remainder = divmod(depth - 2, 6)
        if remainder or blocks < 1:
            raise ValueError(f"depth must be 6n + 2 (20, 32, 44, 56, 110, ...), got {depth}")
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut must be {' or '.join(SHORTCUTS)}, got {shortcut!r}")
        super().__init__()
        projection = shortcut == "projection"
        narrow, middle, wide = STAGE_CHANNELS
        self.conv1 = nn.Conv2d(3, narrow, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.layer1 = _stage(narrow, narrow, blocks, 1, projection)
        self.layer2 = _stage(narrow, middle, blocks, 2, projection)
        self.layer3 = _stage(middle, wide, blocks, 2, projection)
        self.linear = nn.Linear(wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        for key, weight in self.zero_padding().items():
            with torch.no_grad():
                self.get_parameter(key).copy_(weight)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits

    def zero_padding(self) -> dict[str, Tensor]:
        """The weights, by name, with which the projections are option A: in floating point the
        network then answers bit for bit as the one without them."""
        weights = {}
        for name, block in self.named_modules():
            if isinstance(block, BasicBlock) and block.projection is not None:
                weight = torch.zeros_like(block.projection.weight)
                outputs, inputs = weight.shape[:2]
                # An output reads the input of its own place; those before and after are the zeros.
                weight[:, :, 0, 0].diagonal(-((outputs - inputs) // 2)).fill_(1)
                weights[f"{name}.projection.weight"] = weight
        return weights

    def residual_layers(self) -> list[nn.Module]:
        """The layers that must keep their channels, since they feed a residual stream with option-A
        shortcuts: those add channel i of one stage to channel i + k of the next."""
        blocks = [block for block in self.modules() if isinstance(block, BasicBlock)]
        if any(block.projection is not None for block in blocks):
            return []
        return [self.conv1, *(block.conv2 for block in blocks)]


def _stage(
    in_channels: int, out_channels: int, blocks: int, stride: int, projection: bool
) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, projection)
    rest = (BasicBlock(out_channels, out_channels, 1, projection) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
