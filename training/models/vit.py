"""Vision transformer, base size, patches of 16×16 (Dosovitskiy et al. 2020, arXiv 2010.11929)."""

from torch import nn
from torchvision import models as torchvision_models

PATCH = 16


def vit_b_16(num_classes: int, image_size: int = 224) -> nn.Module:
    """Takes squares of `image_size` only: each patch has a learned position.

    ValueError where `image_size` is no multiple of 16.
    """
    if image_size < PATCH or image_size % PATCH:
        raise ValueError(f"image_size must be a multiple of {PATCH}, got {image_size}")
    network: nn.Module = torchvision_models.vit_b_16(
        weights=None, num_classes=num_classes, image_size=image_size
    )
    return network
