"""What is measured after each epoch. Final figures come from serving.base.evaluation instead."""

from typing import Literal

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

Task = Literal["classification", "segmentation", "embedding"]
Measure = Literal["top1", "miou", "iou", "rank1"]

# The name of a task's measure in logs, tables and manifests, and as a person reads it.
MEASURES: dict[Task, Measure] = {
    "classification": "top1",
    "segmentation": "miou",
    "embedding": "rank1",
}
MEASURE_TITLES = {
    "top1": "top-1 accuracy",
    "miou": "mean IoU",
    "iou": "foreground IoU",
    "rank1": "rank-1 identification",
}


def measure_of(task: Task, *, binary: bool) -> Measure:
    """The measure of a task; `binary` where a segmentation has one foreground."""
    return "iou" if binary else MEASURES[task]


def build_metric(task: Task, classes: int, ignore_index: int | None) -> Metric:
    """Top-1 over images; mean IoU over classes, or the foreground's of one class, with all pixels
    pooled; rank-1 of the images that are not the first of their identity. In [0, 1].

    Fed with what the network gives, [N, C, ...], and integer targets [N, ...].
    """
    if task == "classification":
        return MulticlassAccuracy(classes, average="micro")
    if task == "embedding":
        return RankOne()
    if classes == 1:
        return ForegroundIoU(ignore_index=ignore_index)
    return MulticlassJaccardIndex(classes, average="macro", ignore_index=ignore_index)


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
