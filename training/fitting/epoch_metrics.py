"""The score after each epoch. Final figures come from serving.base.evaluation instead."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import (
    BinaryJaccardIndex,
    MulticlassAccuracy,
    MulticlassJaccardIndex,
)
from torchmetrics.utilities import dim_zero_cat

from serving.base.evaluation import identification
from serving.base.task import Task


class ForegroundIoU(BinaryJaccardIndex):
    """IoU of the foreground from the logits of one channel [N, 1, H, W] and masks [N, H, W]."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        # torchmetrics takes values in [0, 1] for probabilities, whatever they are.
        super().update((preds.squeeze(1) > 0).long(), target)


class RankOne(Metric):
    """Rank-1 identification as `serving.base.evaluation` defines it, from network outputs float
    [N, D] of any length and identities int64 [N], some with several images."""

    full_state_update = False
    embeddings: list[Tensor]
    identities: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")
        self.add_state("identities", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, identities: Tensor) -> None:
        self.embeddings.append(functional.normalize(embeddings.float(), dim=1))
        self.identities.append(identities)

    def compute(self) -> Tensor:
        embeddings = dim_zero_cat(self.embeddings).cpu().numpy()
        identities = dim_zero_cat(self.identities).cpu().numpy()
        found = identification(embeddings, identities, (1,))[1]
        return torch.tensor(found.value)


def _segmentation_metric(classes: int, ignore_index: int | None) -> Metric:
    if classes == 1:
        return ForegroundIoU(ignore_index=ignore_index)
    return MulticlassJaccardIndex(classes, average="macro", ignore_index=ignore_index)


METRICS: dict[Task, Callable[[int, int | None], Metric]] = {
    "classification": lambda classes, ignored: MulticlassAccuracy(classes, average="micro"),
    "segmentation": _segmentation_metric,
    "embedding": lambda classes, ignored: RankOne(),
}


def build_metric(task: Task, classes: int, ignore_index: int | None) -> Metric:
    """Top-1 over images; mean IoU over classes, or the foreground's of one class, with all pixels
    pooled; rank-1 of the images that are not the first of their identity. In [0, 1].

    Fed with the network's outputs, [N, C, ...], and integer targets [N, ...].
    """
    return METRICS[task](classes, ignore_index)
