"""What is measured after each epoch. Final figures come from serving.evaluation instead."""

from typing import Literal

from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

Task = Literal["classification", "segmentation"]

# The name of a task's measure in logs, tables and manifests, and as a person reads it.
MEASURES: dict[Task, Literal["top1", "miou"]] = {"classification": "top1", "segmentation": "miou"}
MEASURE_TITLES = {"top1": "top-1 accuracy", "miou": "mean IoU"}


def build_metric(task: Task, classes: int, ignore_index: int | None) -> Metric:
    """Top-1 over images, or mean IoU over classes with all pixels pooled, in [0, 1].

    Fed with logits [N, C, ...] and integer targets [N, ...].
    """
    if task == "classification":
        return MulticlassAccuracy(classes, average="micro")
    return MulticlassJaccardIndex(classes, average="macro", ignore_index=ignore_index)
