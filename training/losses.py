"""What training makes small. Each loss takes logits and targets and gives a scalar."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from training.recipe.loss import CrossEntropy, CrossEntropyDice

LossFunction = Callable[[Tensor, Tensor], Tensor]

# No class has this index: the value that stands for "no pixel is ignored".
_NOTHING = -100


def build_loss(
    config: CrossEntropy | CrossEntropyDice, ignore_index: int | None = None
) -> LossFunction:
    """The loss of a recipe: float logits [N, C] or [N, C, H, W] and integer targets without the C
    dimension, to a float32 scalar, the mean over images or pixels."""
    ignored = _NOTHING if ignore_index is None else ignore_index
    match config:
        case CrossEntropy():
            return partial(
                cross_entropy, label_smoothing=config.label_smoothing, ignore_index=ignored
            )
        case CrossEntropyDice():
            return partial(
                cross_entropy_dice,
                label_smoothing=config.label_smoothing,
                dice_weight=config.dice_weight,
                ignore_index=ignored,
            )


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = _NOTHING
) -> Tensor:
    """-Σ_c q_c log softmax(logits)_c with q = (1 - ε)·onehot + ε / C (arXiv 1512.00567, §7)."""
    return functional.cross_entropy(
        logits.float(), targets.long(), label_smoothing=label_smoothing, ignore_index=ignore_index
    )


def dice(
    logits: Tensor, targets: Tensor, *, smooth: float = 1.0, ignore_index: int = _NOTHING
) -> Tensor:
    """1 - (2 Σ p·q + s) / (Σ p + Σ q + s), mean over the classes that are in the targets.

    p is the softmax of logits [N, C, H, W], q the one-hot targets [N, H, W]; sums run over the
    pixels of the whole batch (arXiv 1606.04797; the denominator there has squares, here as in most
    later work it has not). `s` keeps tiny regions from dividing by nearly nothing.
    """
    classes = logits.shape[1]
    counts = (targets != ignore_index).unsqueeze(1)
    safe = torch.where(targets == ignore_index, 0, targets.long())
    truth = functional.one_hot(safe, classes).permute(0, 3, 1, 2) * counts
    probabilities = logits.float().softmax(dim=1) * counts
    overlap = (probabilities * truth).sum(dim=(0, 2, 3))
    total = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    losses = 1 - (2 * overlap + smooth) / (total + smooth)
    present = truth.sum(dim=(0, 2, 3)) > 0
    return losses[present].mean() if present.any() else losses.sum() * 0


def cross_entropy_dice(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    dice_weight: float = 1.0,
    ignore_index: int = _NOTHING,
) -> Tensor:
    """cross_entropy + dice_weight · dice."""
    pixels = cross_entropy(
        logits, targets, label_smoothing=label_smoothing, ignore_index=ignore_index
    )
    return pixels + dice_weight * dice(logits, targets, ignore_index=ignore_index)
