"""Losses on the overlap of regions, in which small classes count as much as large ones.

Logits are [N, C, H, W], targets [N, H, W]; C may be 1 for a sigmoid, with targets 0 and 1. Sums run
over the pixels of the whole batch. Classes that are absent from a batch do not count in it.
"""

from segmentation_models_pytorch.losses import LovaszLoss
from torch import Tensor

from training.fitting.losses.targets import answered, as_probabilities


def dice(
    logits: Tensor, targets: Tensor, *, smooth: float = 1.0, ignore_index: int | None = None
) -> Tensor:
    """1 - (2 Σ p·q + s) / (Σ p + Σ q + s), mean over the classes that are in the targets.

    p are the probabilities, q the one-hot targets (arXiv 1606.04797, whose denominator has squares;
    most later work, as here, has none). `s` keeps the denominator of tiny regions from 0.
    """
    overlap, total, present = _overlaps(logits, targets, ignore_index)
    return _mean_of(1 - (2 * overlap + smooth) / (total + smooth), present)


def iou(
    logits: Tensor, targets: Tensor, *, smooth: float = 1.0, ignore_index: int | None = None
) -> Tensor:
    """1 - (Σ p·q + s) / (Σ p + Σ q - Σ p·q + s), the soft Jaccard index; as dice otherwise."""
    overlap, total, present = _overlaps(logits, targets, ignore_index)
    return _mean_of(1 - (overlap + smooth) / (total - overlap + smooth), present)


def lovasz(logits: Tensor, targets: Tensor, *, ignore_index: int | None = None) -> Tensor:
    """The Lovász extension of 1 - IoU (arXiv 1705.08790): of the errors |q - p| of each class that
    is present (eq. 11), or of the hinge errors of a single logit (eq. 9)."""
    mode = "binary" if logits.shape[1] == 1 else "multiclass"
    loss: Tensor = LovaszLoss(mode, ignore_index=ignore_index)(logits.float(), targets.long())
    # The sum turns the empty tensor of a batch without a counted pixel into 0.
    return loss.sum()


def _overlaps(
    logits: Tensor, targets: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ p·q, Σ p + Σ q and whether Σ q > 0, each [C]."""
    truth, counted = as_probabilities(logits, targets, ignore_index)
    truth = truth * counted
    probabilities = answered(logits) * counted
    overlap = (probabilities * truth).sum(dim=(0, 2, 3))
    total = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    return overlap, total, truth.sum(dim=(0, 2, 3)) > 0


def _mean_of(losses: Tensor, present: Tensor) -> Tensor:
    return losses[present].mean() if present.any() else losses.sum() * 0
