"""The objective that a run of the training loop minimises."""

import torch
from torch import Tensor, nn

from training.data.samples import Samples
from training.data.sampling import balancing_weights, class_counts
from training.errors import RecipeError
from training.fitting.losses import build_loss
from training.recipes.loss import ArcFace, CosFace, CrossEntropy, terms
from training.recipes.train import Train


class Supervised(nn.Module):
    """The objective of plain training: a loss between the network's answers and the targets.

    A network in training mode may answer with (logits, auxiliary logits, ...), all in the shape of
    the first: each auxiliary loss counts `auxiliary_weight` times (deep supervision, arXiv
    1409.5185).
    """

    def __init__(self, loss: nn.Module, auxiliary_weight: float) -> None:
        super().__init__()
        self.loss = loss
        self.auxiliary_weight = auxiliary_weight

    def forward(
        self, outputs: Tensor | tuple[Tensor, ...], targets: Tensor, images: Tensor
    ) -> Tensor:
        """`images` are not looked at; other objectives show them to a teacher."""
        main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        total: Tensor = self.loss(main, targets)
        for answer in auxiliary:
            total = total + self.auxiliary_weight * self.loss(answer, targets)
        return total


def build_objective(
    network: nn.Module, config: Train, train: Samples, classes: int, ignore_index: int | None
) -> Supervised:
    """The loss of a recipe, with its facts about the training images and the network: class
    weights counted, centres of classes as long as the network's embeddings."""

    def class_weights(term: CrossEntropy) -> list[float] | None:
        if term.class_weights is None:
            return None
        if term.class_weights == "balanced":
            counts = class_counts(train, classes, ignore_index)
            weights: list[float] = balancing_weights(counts).tolist()
            return weights
        if len(term.class_weights) != classes:
            raise RecipeError(
                f"loss.class_weights: expected one for each of {classes} classes, "
                f"got {len(term.class_weights)}"
            )
        return list(term.class_weights)

    dimensions = None
    if any(isinstance(term, ArcFace | CosFace) for term in terms(config.loss)):
        height, width, channels = train.batch([0])[0].shape[1:]
        with torch.no_grad():
            dimensions = network.eval()(torch.zeros(1, channels, height, width)).shape[1]
    loss = build_loss(
        config.loss,
        ignore_index=ignore_index,
        class_weights=class_weights,
        classes=classes,
        dimensions=dimensions,
    )
    return Supervised(loss, config.auxiliary_weight)
