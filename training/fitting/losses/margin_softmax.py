"""Softmax with a margin, for embeddings: ArcFace (arXiv 1801.07698), CosFace (arXiv 1801.09414)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["arcface", "cosface"]


def with_margin(cosines: Tensor, labels: Tensor, kind: Kind, margin: float) -> Tensor:
    """Cosines [N, C], with a margin taken from the cosine of each image's own class.

    arcface: cos(θ + m) (eq. 3), and cos θ - m sin m past θ = π - m, where cos(θ + m) would rise
    again.
    cosface: cos θ - m (eq. 4).
    """
    own = cosines.gather(1, labels.unsqueeze(1))
    if kind == "cosface":
        lowered = own - margin
    else:
        # The gradient of sin θ at θ = 0 is infinite.
        sines = (1 - own**2).clamp(min=1e-7).sqrt()
        turned = own * math.cos(margin) - sines * math.sin(margin)
        past = own <= -math.cos(margin)
        lowered = torch.where(past, own - margin * math.sin(margin), turned)
    return cosines.scatter(1, labels.unsqueeze(1), lowered)


class MarginSoftmax(nn.Module):
    """Cross-entropy of scale · cosines between embeddings and a learnt centre of each class, with a
    margin on the own class.

    Embeddings [N, D] and the centres are normalised here. The centres, `weight` [classes, D], are a
    parameter that the optimiser has to train beside the network's; only training needs them.
    """

    def __init__(
        self, classes: int, dimensions: int, kind: Kind, margin: float, scale: float
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dimensions))
        nn.init.xavier_uniform_(self.weight)
        self.kind = kind
        self.margin = margin
        self.scale = scale

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, of embeddings float [N, D] and labels int [N] below `classes`."""
        unit = functional.normalize(embeddings.float(), dim=1)
        cosines = unit @ functional.normalize(self.weight.float(), dim=1).T
        logits = with_margin(cosines, labels.long(), self.kind, self.margin)
        return functional.cross_entropy(self.scale * logits, labels.long())
