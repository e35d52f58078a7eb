"""Cross-entropies over the class of an image or a pixel."""

import torch
from torch import Tensor
from torch.nn import functional

from training.fitting.losses.targets import as_probabilities, counted_mean


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """-Σ_c w_c q_c log softmax(logits)_c with q = (1 - ε) · target + ε / C (arXiv 1512.00567, §7).

    logits [N, C] or [N, C, H, W]; targets are classes [N] or [N, H, W], or probabilities in the
    shape of the logits. With weights [C] the mean over classes is weighted too: it is divided by
    the sum of the targets' weights.
    """
    logits = logits.float()
    if targets.is_floating_point():
        losses = functional.cross_entropy(
            logits, targets, weight=class_weights, label_smoothing=label_smoothing, reduction="none"
        )
        if class_weights is None:
            return losses.mean()
        weight: Tensor = torch.tensordot(targets, class_weights, dims=([1], [0])).sum()
        return losses.sum() / weight
    targets = targets.long()
    if ignore_index is None:
        return functional.cross_entropy(
            logits, targets, weight=class_weights, label_smoothing=label_smoothing
        )
    # torch's mean would divide by 0 where no target counts.
    total = functional.cross_entropy(
        logits,
        targets,
        weight=class_weights,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction="sum",
    )
    counted = targets != ignore_index
    if class_weights is None:
        return total / counted.sum().clamp(min=1)
    weight = (class_weights[torch.where(counted, targets, 0)] * counted).sum()
    return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    positive_weight: float = 1.0,
    ignore_index: int | None = None,
) -> Tensor:
    """-(w · q log σ(x) + (1 - q) log(1 - σ(x))), mean over all logits [N, C, ...] that count.

    Each class is a yes or no of its own; C may be 1, with targets 0 and 1.
    """
    truth, counted = as_probabilities(logits, targets, ignore_index)
    logits = logits.float()
    losses = functional.binary_cross_entropy_with_logits(
        logits, truth, pos_weight=logits.new_tensor(positive_weight), reduction="none"
    )
    return counted_mean(losses, counted)
