"""A narrow U-Net (Ronneberger et al. 2015, arXiv 1505.04597) on VGG-16 blocks.

Departures from the paper: convolutions keep the size, so skips are joined without cropping and the
answer has the size of the image; batch normalisation follows every 3×3 convolution; the
up-convolution is a 1×1 convolution and nearest-neighbour upsampling, which copies values exactly in
INT8 and leaves no checkerboard.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.architectures.vgg_slim import VGGEncoder, conv_bn_relu


class DecoderBlock(nn.Module):
    """Narrows and doubles `deep`, joins the skip of that size, and mixes both by 3×3 convolutions.

    deep [N, deep_channels, H, W] and skip [N, skip_channels, 2H, 2W] to [N, out_channels, 2H, 2W].
    """

    def __init__(self, deep_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        # Narrowing before the upsampling costs a quarter of narrowing after it.
        self.narrow = nn.Conv2d(deep_channels, out_channels, 1)
        self.convs = nn.Sequential(
            conv_bn_relu(skip_channels + out_channels, out_channels),
            conv_bn_relu(out_channels, out_channels),
        )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        upsampled = functional.interpolate(self.narrow(deep), scale_factor=2.0, mode="nearest")
        out: Tensor = self.convs(torch.cat((skip, upsampled), dim=1))
        return out


class SlimUNet(nn.Module):
    """float32 [N, 3, H, W] to raw class logits [N, num_classes, H, W], for any H and W.

    Sizes that are no multiple of `stride` are padded with zeros on the right and at the bottom, and
    the answer is cropped back. With 10 classes and the default quarter width it has 1.5 M
    parameters; `width` 1.0 has the full channels of VGG-16.
    """

    stride = 16

    def __init__(self, num_classes: int, width: float = 0.25) -> None:
        super().__init__()
        self.encoder = VGGEncoder(width)
        *skips, deep = self.encoder.channels
        self.decoder = nn.ModuleList()
        for skip in reversed(skips):
            self.decoder.append(DecoderBlock(deep, skip, skip))
            deep = skip
        self.head = nn.Conv2d(deep, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        below, right = -height % self.stride, -width % self.stride
        if below or right:
            image = functional.pad(image, (0, right, 0, below))
        *skips, x = self.encoder(image)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
        logits: Tensor = self.head(x)
        if below or right:
            logits = logits[:, :, :height, :width]
        return logits
