"""Segmentation networks: any decoder of segmentation-models-pytorch, or FCN, on any backbone.

U-Net arXiv 1505.04597, FPN 1612.03144, PSPNet 1612.01105, DeepLabV3+ 1802.02611, FCN 1411.4038.
"""

from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation.fcn import FCNHead

from training.models.architectures.fcn import FCNDecoder

_SCALES_OF_PSPNET = 3
"""Halvings of a backbone below PSPNet that cannot be dilated: the paper's stride of 8."""


class Segmenter(nn.Module):
    """float32 [N, 3, H, W] to logits [N, num_classes, H, W], for any H and W.

    Sizes that are no multiple of `stride` are padded with zeros on the right and at the bottom, and
    the answer is cropped back. With an `auxiliary` head the answer is (logits, auxiliary logits) in
    training mode, both of one shape; the head reads the next to last map of the encoder.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        head: nn.Module,
        stride: int,
        auxiliary: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.auxiliary = auxiliary
        self.head = head
        self.stride = stride

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        below, right = -height % self.stride, -width % self.stride
        if below or right:
            image = functional.pad(image, (0, right, 0, below))
        features = self.encoder(image)
        logits: Tensor = self.head(self.decoder(features))
        if below or right:
            logits = logits[:, :, :height, :width]
        if not self.training or self.auxiliary is None:
            return logits
        hint = functional.interpolate(
            self.auxiliary(features[-2]), image.shape[-2:], mode="bilinear", align_corners=False
        )
        return logits, hint[:, :, :height, :width]

    def head_layers(self) -> list[nn.Module]:
        """The convolutions whose outputs are the classes."""
        layers: list[nn.Module] = [m for m in self.head.modules() if isinstance(m, nn.Conv2d)]
        if isinstance(self.decoder, FCNDecoder):
            layers += self.decoder.score_layers()
        if self.auxiliary is not None:
            layers.append(self.auxiliary[-1])  # type: ignore[index]
        return layers


def unet(backbone: str, num_classes: int, auxiliary: bool = False, **options: Any) -> Segmenter:
    """Skips at every scale of the backbone; nearest-neighbour upsampling.

    Here and below, `backbone` is a name of segmentation-models-pytorch, where tu-NAME is a network
    of timm, and `options` are arguments of the backbone.
    """
    network = smp.Unet(backbone, encoder_weights=None, classes=num_classes, **options)
    return _segmenter(network, num_classes, auxiliary)


def fpn(backbone: str, num_classes: int, auxiliary: bool = False, **options: Any) -> Segmenter:
    """Batch normalisation instead of the library's group normalisation: it costs nothing once it is
    folded into the convolutions, and does not tie the number of channels to that of the groups."""
    network = smp.FPN(backbone, encoder_weights=None, classes=num_classes, **options)
    for name, module in list(network.decoder.named_modules()):
        if isinstance(module, nn.GroupNorm):
            network.decoder.set_submodule(name, nn.BatchNorm2d(module.num_channels))
    return _segmenter(network, num_classes, auxiliary)


def pspnet(backbone: str, num_classes: int, auxiliary: bool = False, **options: Any) -> Segmenter:
    """Backbones are dilated to a stride of 8, as in the paper; VGG and those of timm, few of which
    can be, end there."""
    if backbone.startswith("tu-"):
        network = smp.PSPNet(backbone, None, _SCALES_OF_PSPNET, classes=num_classes, **options)
    elif backbone.startswith("vgg"):
        network = smp.PSPNet(backbone, None, _SCALES_OF_PSPNET, classes=num_classes)
        # Layers that never run would be saved, counted and, over several devices, waited for.
        last = network.encoder._out_indexes[_SCALES_OF_PSPNET]
        network.encoder.features = network.encoder.features[: last + 1]
    else:
        network = smp.PSPNet(backbone, None, 5, classes=num_classes, output_stride=8)
    return _segmenter(network, num_classes, auxiliary)


def deeplabv3plus(
    backbone: str, num_classes: int, auxiliary: bool = False, **options: Any
) -> Segmenter:
    """The last stage of the backbone is dilated to a stride of 16; VGG cannot be, nor can many of
    timm."""
    network = smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=num_classes, **options)
    return _segmenter(network, num_classes, auxiliary)


def fcn(backbone: str, num_classes: int, auxiliary: bool = False, **options: Any) -> Segmenter:
    """FCN-8s: scores of the strides 8, 16 and 32."""
    encoder = smp.encoders.get_encoder(backbone, weights=None, **options)
    decoder = FCNDecoder(encoder.out_channels, num_classes)
    head = nn.Upsample(scale_factor=8, mode="bilinear", align_corners=False)
    return Segmenter(
        encoder, decoder, head, encoder.output_stride, _auxiliary(encoder, num_classes, auxiliary)
    )


def _segmenter(network: Any, num_classes: int, auxiliary: bool) -> Segmenter:
    encoder = network.encoder
    return Segmenter(
        encoder,
        network.decoder,
        network.segmentation_head,
        encoder.output_stride,
        _auxiliary(encoder, num_classes, auxiliary),
    )


def _auxiliary(encoder: Any, num_classes: int, wanted: bool) -> nn.Module | None:
    return FCNHead(encoder.out_channels[-2], num_classes) if wanted else None
