"""Distances between a network's probabilities and the target probabilities.

Logits are [N, C, ...], with a softmax over C or, where C is 1, a sigmoid; targets are classes, or
probabilities in the shape of the logits. The mean runs over C too, except in the divergence.
"""

import torch
from torch import Tensor
from torch.nn import functional

from training.fitting.losses.targets import answered, as_probabilities, counted_mean


def absolute(logits: Tensor, targets: Tensor, *, ignore_index: int | None = None) -> Tensor:
    """mean |p - q|."""
    truth, counted = as_probabilities(logits, targets, ignore_index)
    return counted_mean((answered(logits) - truth).abs(), counted)


def squared(logits: Tensor, targets: Tensor, *, ignore_index: int | None = None) -> Tensor:
    """mean (p - q)²."""
    truth, counted = as_probabilities(logits, targets, ignore_index)
    return counted_mean((answered(logits) - truth) ** 2, counted)


def smooth_absolute(
    logits: Tensor, targets: Tensor, *, beta: float = 1.0, ignore_index: int | None = None
) -> Tensor:
    """mean of (p - q)² / 2β where |p - q| < β, else |p - q| - β / 2 (arXiv 1504.08083, eq. 3)."""
    truth, counted = as_probabilities(logits, targets, ignore_index)
    losses = functional.smooth_l1_loss(answered(logits), truth, beta=beta, reduction="none")
    return counted_mean(losses, counted)


def divergence(logits: Tensor, targets: Tensor, *, ignore_index: int | None = None) -> Tensor:
    """Σ_c q_c log(q_c / p_c), mean over images or pixels; cross-entropy for one-hot targets.
    A single logit stands for the two classes of its sigmoid."""
    truth, counted = as_probabilities(logits, targets, ignore_index)
    logits = logits.float()
    if logits.shape[1] == 1:
        log_p = torch.cat((functional.logsigmoid(-logits), functional.logsigmoid(logits)), dim=1)
        truth = torch.cat((1 - truth, truth), dim=1)
    else:
        log_p = logits.log_softmax(dim=1)
    losses = functional.kl_div(log_p, truth, reduction="none").sum(dim=1, keepdim=True)
    return counted_mean(losses, counted)
