"""Images made of two, with the classes of both: mixup (arXiv 1710.09412), CutMix (1905.04899)."""

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
    """Images [N, H, W, 3] and labels int [N] to float32 images and class probabilities float32
    [N, classes].

    Each image is joined with the one before it: blended in the proportion λ, drawn from
    Beta(alpha, alpha) for the batch, or covered by a rectangle of it. With both alphas, either for
    half of the batches. Draws come from torch's global generator.
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
