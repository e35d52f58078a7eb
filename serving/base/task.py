"""The tasks, and the names of the tensors by which a network of each is served."""

from collections.abc import Collection
from typing import Literal

Task = Literal["classification", "segmentation", "embedding"]

# The input of every network we publish, and the output that is its answer; a binary segmentation
# answers with a probability map instead of a class map.
IMAGE_INPUT = "image"
PROBABILITY_OUTPUT = "probability"
ANSWER_OUTPUT: dict[Task, str] = {
    "classification": "logits",
    "segmentation": "mask",
    "embedding": "embedding",
}


def answer_output(task: Task, names: Collection[str]) -> str:
    """Which of a network's outputs is its answer."""
    if task == "segmentation" and PROBABILITY_OUTPUT in names:
        return PROBABILITY_OUTPUT
    return ANSWER_OUTPUT[task]
