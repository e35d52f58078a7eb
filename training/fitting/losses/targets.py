"""Converts targets, classes or probabilities, into one form for every loss."""

import torch
from torch import Tensor
from torch.nn import functional


def as_probabilities(
    logits: Tensor, targets: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """Target probabilities, float32 in the shape of `logits` [N, C, ...], and a mask of the targets
    that count, bool [N, 1, ...].

    Targets are class indices [N, ...], or probabilities in the shape of the logits, all of which
    count. Where C is 1, the logit is that of class 1, and float targets [N, ...] are its
    probabilities.
    """
    if targets.shape == logits.shape and targets.is_floating_point():
        return targets.float(), torch.ones_like(targets[:, :1], dtype=torch.bool)
    counted = torch.ones_like(targets, dtype=torch.bool)
    if ignore_index is not None:
        counted = targets != ignore_index
    if logits.shape[1] == 1:
        return (targets * counted).unsqueeze(1).float(), counted.unsqueeze(1)
    safe = torch.where(counted, targets, 0).long()
    one_hot = functional.one_hot(safe, logits.shape[1]).movedim(-1, 1)
    return one_hot.float(), counted.unsqueeze(1)


def answered(logits: Tensor) -> Tensor:
    """float32 probabilities of logits [N, C, ...]: softmax over C, sigmoid where C is 1."""
    logits = logits.float()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def counted_mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of values [N, C, ...] over the places [N, 1, ...] that count, and over C; 0, with no
    gradient, where none counts."""
    total = (values * counted).sum()
    return total / (counted.sum() * values.shape[1]).clamp(min=1)
