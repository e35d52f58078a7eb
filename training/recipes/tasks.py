"""The tasks of serving.base.task as they are trained: one row a task.

A new task takes a row here and in serving.base.task, a recipe class in recipes.recipe, and an entry
in each table that is keyed by the task or its measure: the last step of the file
(models.export.deployed), the score of an epoch (fitting.epoch_metrics), the answers to a split
(evaluation.network_answers), the accuracy (evaluation.accuracy), the words and the pictures of
answers (evaluation.report.from_verify and images). tests/training/test_tasks.py names a table that
lacks one.
"""

from dataclasses import dataclass
from typing import Literal

from serving.base.task import Task

NetworkTask = Literal["classification", "segmentation"]

MEASURE_TITLES: dict[str, str] = {
    "top1": "top-1 accuracy",
    "miou": "mean IoU",
    "iou": "foreground IoU",
    "rank1": "rank-1 identification",
    "agreement": "agreement with FP32",
}
"""The measures as a person reads them."""


@dataclass(frozen=True)
class TrainedTask:
    """A task as it is trained.

    networks: which networks of training.models do it.
    class_of_image: an image has one class, by which it can be drawn, blended and split.
    blends: mixup and cutmix suit it.
    validates_loss: validation images show classes that the loss knows. Embeddings are validated on
        people that were not trained on.
    classes_served: the manifest names the classes of the training data.
    counted: the unit of a confusion matrix.
    class_measure: what a report shows of each class.
    """

    networks: NetworkTask
    class_of_image: bool
    blends: bool
    validates_loss: bool
    classes_served: bool
    counted: Literal["images", "pixels"]
    class_measure: Literal["recall", "IoU"]


TRAINED_TASKS: dict[Task, TrainedTask] = {
    "classification": TrainedTask(
        networks="classification",
        class_of_image=True,
        blends=True,
        validates_loss=True,
        classes_served=True,
        counted="images",
        class_measure="recall",
    ),
    "segmentation": TrainedTask(
        networks="segmentation",
        class_of_image=False,
        blends=False,
        validates_loss=True,
        classes_served=True,
        counted="pixels",
        class_measure="IoU",
    ),
    "embedding": TrainedTask(
        networks="classification",
        class_of_image=True,
        blends=False,
        validates_loss=False,
        classes_served=False,
        counted="images",
        class_measure="recall",
    ),
}
