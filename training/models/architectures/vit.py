"""Vision transformer, base size, patches of 16×16 (Dosovitskiy et al. 2020, arXiv 2010.11929)."""

from torch import nn
from torchvision import models as torchvision_models

PATCH = 16
HEAD_STD = 0.02


def vit_b_16(num_classes: int, image_size: int = 224) -> nn.Module:
    """Takes squares of `image_size` only: each patch has a learned position.

    Departure from the paper: the head does not begin at zero, from where an embedding has no
    direction to learn in.
    ValueError where `image_size` is no multiple of 16.
    """
    if image_size < PATCH or image_size % PATCH:
        raise ValueError(f"image_size must be a multiple of {PATCH}, got {image_size}")
    network = torchvision_models.vit_b_16(
        weights=None, num_classes=num_classes, image_size=image_size
    )
    nn.init.trunc_normal_(network.heads.head.weight, std=HEAD_STD)
    built: nn.Module = network
    return built
