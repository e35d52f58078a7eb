"""Losses: makes a module from the loss section of a recipe."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from training.fitting.losses.classes import binary_cross_entropy, cross_entropy
from training.fitting.losses.focal import binary_focal, focal
from training.fitting.losses.margin_softmax import MarginSoftmax
from training.fitting.losses.probabilities import absolute, divergence, smooth_absolute, squared
from training.fitting.losses.regions import dice, iou, lovasz
from training.fitting.losses.triplet import triplet
from training.recipes.loss import (
    L1,
    ArcFace,
    BinaryCrossEntropy,
    BinaryFocal,
    CosFace,
    CrossEntropy,
    Dice,
    Focal,
    Iou,
    Kl,
    Loss,
    Lovasz,
    Mse,
    SmoothL1,
    Sum,
    Term,
    Triplet,
)

__all__ = ["build_loss"]


def build_loss(
    config: Loss,
    *,
    ignore_index: int | None = None,
    class_weights: Callable[[CrossEntropy], Sequence[float] | None] = lambda config: None,
    classes: int | None = None,
    dimensions: int | None = None,
) -> nn.Module:
    """The loss of a recipe: a module that takes a network's answers and targets and returns a
    float32 scalar, the mean over images or pixels.

    Answers are float logits [N, C] or [N, C, H, W], where C = 1 stands for a sigmoid, or embeddings
    [N, D]. Targets are class indices without the C dimension, or class probabilities, float, in the
    shape of the logits. Losses that learn a centre of each class hold it in parameters of their
    own, which have to be trained too.

    ignore_index: the class of targets that do not count.
    class_weights: returns the weights that a cross-entropy asks for.
    classes, dimensions: C and D, for losses that learn a centre of each class.
    """
    if isinstance(config, Sum):
        parts = [
            build_loss(
                part.loss,
                ignore_index=ignore_index,
                class_weights=class_weights,
                classes=classes,
                dimensions=dimensions,
            )
            for part in config.terms
        ]
        return WeightedSum(parts, [part.weight for part in config.terms])
    if isinstance(config, ArcFace | CosFace):
        if classes is None or dimensions is None:
            raise ValueError(f"{config.name} needs the numbers of classes and of dimensions")
        return MarginSoftmax(classes, dimensions, config.name, config.margin, config.scale)
    weights = class_weights(config) if isinstance(config, CrossEntropy) else None
    return Function(_function(config, ignore_index), weights)


def _function(config: Term, ignore_index: int | None) -> Callable[..., Tensor]:
    match config:
        case CrossEntropy():
            smoothing = config.label_smoothing
            return partial(cross_entropy, label_smoothing=smoothing, ignore_index=ignore_index)
        case BinaryCrossEntropy():
            weight = config.positive_weight
            return partial(binary_cross_entropy, positive_weight=weight, ignore_index=ignore_index)
        case Focal():
            return partial(focal, gamma=config.gamma, ignore_index=ignore_index)
        case BinaryFocal():
            return partial(
                binary_focal, gamma=config.gamma, alpha=config.alpha, ignore_index=ignore_index
            )
        case Dice():
            return partial(dice, ignore_index=ignore_index)
        case Iou():
            return partial(iou, ignore_index=ignore_index)
        case Lovasz():
            return partial(lovasz, ignore_index=ignore_index)
        case L1():
            return partial(absolute, ignore_index=ignore_index)
        case Mse():
            return partial(squared, ignore_index=ignore_index)
        case SmoothL1():
            return partial(smooth_absolute, beta=config.beta, ignore_index=ignore_index)
        case Kl():
            return partial(divergence, ignore_index=ignore_index)
        case Triplet():
            return partial(triplet, margin=config.margin, mining=config.mining)
        case ArcFace() | CosFace():
            raise TypeError(f"{config.name} has parameters")


class Function(nn.Module):
    """A loss without parameters; `class_weights` follow the module to its device."""

    class_weights: Tensor | None

    def __init__(
        self, function: Callable[..., Tensor], class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.function = function
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.class_weights is None:
            return self.function(outputs, targets)
        return self.function(outputs, targets, class_weights=self.class_weights)


class WeightedSum(nn.Module):
    """Σ weight · loss."""

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(weights)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        parts = [
            weight * loss(outputs, targets)
            for weight, loss in zip(self.weights, self.losses, strict=True)
        ]
        return torch.stack(parts).sum()
