"""Triplet loss on embeddings (FaceNet, arXiv 1503.03832)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Mining = Literal["hard", "semi_hard"]


def triplet(
    embeddings: Tensor, labels: Tensor, *, margin: float = 0.2, mining: Mining = "semi_hard"
) -> Tensor:
    """max(0, d(a, p) - d(a, n) + margin) with squared distances on the unit sphere (eq. 2), mean
    over all triplets; 0, with no gradient, where the batch holds none.

    embeddings: float [N, D], normalised here.
    labels: int [N].
    mining: "hard" takes one triplet an anchor, with the farthest positive and the nearest negative
        (batch hard, arXiv 1703.07737, eq. 5). "semi_hard" takes one for each anchor and positive,
        with the nearest negative that is farther than the positive (§3.2) or, where there is none,
        the farthest negative.
    """
    unit = functional.normalize(embeddings.float(), dim=1)
    distances = (2 - 2 * unit @ unit.T).clamp(min=0)
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=same.device)
    mine = _hard if mining == "hard" else _semi_hard
    losses = mine(distances, positive, ~same)
    return functional.relu(losses + margin).mean() if len(losses) else embeddings.sum() * 0


def _hard(distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """d(a, p) - d(a, n) [triplets]."""
    anchors = positive.any(dim=1) & negative.any(dim=1)
    farthest = distances.masked_fill(~positive, -torch.inf).amax(dim=1)
    nearest = distances.masked_fill(~negative, torch.inf).amin(dim=1)
    return farthest[anchors] - nearest[anchors]


def _semi_hard(distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """d(a, p) - d(a, n) [triplets]."""
    anchors, positives = (positive & negative.any(dim=1, keepdim=True)).nonzero(as_tuple=True)
    own = distances[anchors, positives]
    others, allowed = distances[anchors], negative[anchors]
    farther = allowed & (others > own.unsqueeze(1))
    nearest = others.masked_fill(~farther, torch.inf).amin(dim=1)
    farthest = others.masked_fill(~allowed, -torch.inf).amax(dim=1)
    return own - torch.where(farther.any(dim=1), nearest, farthest)
