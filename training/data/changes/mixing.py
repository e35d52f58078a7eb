"""Blends of two images with the classes of both: mixup (arXiv 1710.09412), CutMix (1905.04899)."""

import torch
from torch import Tensor
from torchvision.transforms import v2


def mix(
    images: Tensor,
    labels: Tensor,
    classes: int,
    *,
    mixup_alpha: float | None,
    cutmix_alpha: float | None,
) -> tuple[Tensor, Tensor]:
    """Images [N, H, W, C] and labels int [N] to float32 images [N, H, W, C] and class probabilities
    float32 [N, classes].

    Each image is mixed with the image before it: mixup blends both in a proportion drawn from
    Beta(alpha, alpha) for the batch, CutMix pastes a rectangle of that share of the area. With both
    alphas each batch takes one of the two at random. Draws come from torch's global generator.
    """
    ways: list[v2.Transform] = []
    if mixup_alpha is not None:
        ways.append(v2.MixUp(alpha=mixup_alpha, num_classes=classes))
    if cutmix_alpha is not None:
        ways.append(v2.CutMix(alpha=cutmix_alpha, num_classes=classes))
    way = ways[int(torch.randint(len(ways), ()))]
    # CutMix takes the last two dimensions for height and width.
    mixed, probabilities = way(images.float().permute(0, 3, 1, 2), labels.long())
    return mixed.permute(0, 2, 3, 1), probabilities
