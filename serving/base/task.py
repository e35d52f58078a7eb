"""The tasks: one table with the output, the accuracy measure and the call of each.

The table of training.recipes.tasks adds the parts that only training needs.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Task = Literal["classification", "segmentation", "embedding"]
Measure = Literal["top1", "miou", "iou", "rank1"]

IMAGE_INPUT = "image"
"""The input of every network that a build publishes."""
PROBABILITY_OUTPUT = "probability"
"""The answer of a binary segmentation: a probability map instead of a class map."""


@dataclass(frozen=True)
class TaskSpec:
    """A task as server and clients see it.

    output: name of the tensor that is the answer.
    measure: accuracy measure of that answer, as manifests name it.
    method: the VisionService call.
    binary_output, binary_measure: output and measure of a network with one foreground class.
    """

    output: str
    measure: Measure
    method: str
    binary_output: str | None = None
    binary_measure: Measure | None = None


TASKS: dict[Task, TaskSpec] = {
    "classification": TaskSpec(output="logits", measure="top1", method="Classify"),
    "segmentation": TaskSpec(
        output="mask",
        measure="miou",
        method="Segment",
        binary_output=PROBABILITY_OUTPUT,
        binary_measure="iou",
    ),
    "embedding": TaskSpec(output="embedding", measure="rank1", method="Embed"),
}


def answer_output(task: Task, names: Collection[str]) -> str:
    """The name, among the names of a network's outputs, of its answer."""
    spec = TASKS[task]
    if spec.binary_output is not None and spec.binary_output in names:
        return spec.binary_output
    return spec.output


def measure_of(task: Task, *, binary: bool) -> Measure:
    """The measure of a task.

    binary: whether it is a segmentation of one foreground class.
    """
    spec = TASKS[task]
    return spec.binary_measure if binary and spec.binary_measure is not None else spec.measure
