"""VGG-16 convolutional blocks with batch normalisation, as an encoder of feature maps.

Configuration D of Simonyan & Zisserman (arXiv 1409.1556, Table 1) without its classifier. Two
departures: batch normalisation after every convolution, and a width multiplier. At width 1 the
thirteen convolutions hold 14.7 M parameters; parameters and multiply-accumulates both fall with the
square of the width.
"""

from torch import Tensor, nn

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of each 3x3 convolution, block by block; max pooling stands between blocks."""

CHANNEL_MULTIPLE = 8
"""Scaled channel counts are rounded to this: INT8 kernels run ragged counts slowly."""


def conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3×3 convolution that keeps the size, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class VGGEncoder(nn.Module):
    """float32 [N, 3, H, W] to five feature maps, each the last before a pooling of VGG-16.

    Map i is [N, channels[i], H / 2^i, W / 2^i], rounded down. The fifth pooling is left out: what
    follows it is a classifier. ValueError when `width` is not positive.
    """

    def __init__(self, width: float = 1.0) -> None:
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}")
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.ModuleList()
        self.channels: list[int] = []
        in_channels = 3
        for block in BLOCKS:
            layers = []
            for full_width in block:
                out_channels = _scaled(full_width, width)
                layers.append(conv_bn_relu(in_channels, out_channels))
                in_channels = out_channels
            self.blocks.append(nn.Sequential(*layers))
            self.channels.append(in_channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = [self.blocks[0](image)]
        for block in self.blocks[1:]:
            features.append(block(self.pool(features[-1])))
        return features


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width / CHANNEL_MULTIPLE)) * CHANNEL_MULTIPLE
