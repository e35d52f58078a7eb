"""The answers of networks in the words of a task: scores, class maps, embeddings.

`described` says which output of a network that was made elsewhere is the answer, and what it holds;
it is None for a network in the form that a build publishes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.base.errors import EngineError, quoted
from serving.base.task import PROBABILITY_OUTPUT
from serving.base.tensor import Array
from serving.images.postprocess import Mask, binary_mask, softmax
from serving.repository.interface import TaskOutput

# Arrays of the size of an answer that a class map of scores takes beside it, in FP32.
_COPIES = 3


def scores_of(outputs: Mapping[str, Array], described: TaskOutput | None) -> NDArray[np.float32]:
    """The score of each class, float32 [N, C]; `outputs` are those of N images, [N, ...] each."""
    if described is None:
        return softmax(outputs["logits"])
    values = _rows(outputs, described)
    if values.shape[1] == 1:
        second = _probability(values, described)
        return np.concatenate([1 - second, second], axis=1)
    return values if described.holds == "probabilities" else softmax(values)


def mask_of(
    outputs: Mapping[str, Array], described: TaskOutput | None
) -> tuple[Mask, NDArray[np.uint8]]:
    """The class map [H, W], and 255 × the probability of each pixel's class, uint8 [H, W]; the
    latter is 0 where a network answers with classes alone. Raises EngineError for an output that is
    no mask."""
    if described is None:
        probability = outputs.get(PROBABILITY_OUTPUT)
        if probability is not None:
            return binary_mask(probability)
        return outputs["mask"], outputs["confidence"]
    values = _some(outputs, described)
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 and (values.ndim != 3 or described.holds == "classes"):
        raise EngineError(
            f"output {quoted(described.output)} is no mask: got {list(values.shape)}, expected a "
            f"{'class' if described.holds == 'classes' else 'score of each class'} for each pixel"
        )
    if described.holds == "classes":
        classes = np.clip(values.reshape(values.shape[-2:]), 0, np.iinfo(np.uint16).max)
        kind = np.uint8 if classes.max(initial=0) < 256 else np.uint16
        return classes.astype(kind), np.zeros(classes.shape, np.uint8)
    if described.layout == "NHWC" and values.ndim == 3:
        values = values.transpose(2, 0, 1)
    if values.ndim == 2 or values.shape[0] == 1:
        foreground = _probability(values.reshape(values.shape[-2:]).astype(np.float32), described)
        return binary_mask(_levels(foreground))
    scores = values.astype(np.float32)
    if described.holds == "logits":
        scores -= scores.max(axis=0)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=0)
    kind = np.uint8 if len(scores) <= 256 else np.uint16
    return scores.argmax(axis=0).astype(kind), _levels(scores.max(axis=0))


def mask_bytes(outputs: Mapping[str, Array], described: TaskOutput) -> int:
    """Bytes that `mask_of` takes at most, its result included."""
    return _COPIES * 4 * outputs[described.output].size


def embeddings_of(
    outputs: Mapping[str, Array], described: TaskOutput | None
) -> NDArray[np.float32]:
    """Points on the unit sphere, float32 [N, D]; zeros stay zeros. `outputs` are those of N images,
    [N, ...] each."""
    if described is None:
        values: NDArray[np.float32] = outputs["embedding"]
        return values
    points = _rows(outputs, described)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    points /= np.maximum(lengths, np.finfo(np.float32).tiny)
    return points


def _rows(outputs: Mapping[str, Array], described: TaskOutput) -> NDArray[np.float32]:
    """A copy of the values of the output that answers, one row an image. Raises EngineError where
    there are none."""
    values = _some(outputs, described)
    return values.reshape(len(values), -1).astype(np.float32)


def _some(outputs: Mapping[str, Array], described: TaskOutput) -> Array:
    """The values of the output that answers. Raises EngineError where there are none."""
    values = outputs[described.output]
    if not values.size:
        raise EngineError(f"output {quoted(described.output)} is empty: got {list(values.shape)}")
    return values


def _probability(values: NDArray[Any], described: TaskOutput) -> NDArray[np.float32]:
    if described.holds == "probabilities":
        return np.asarray(values, np.float32)
    # tanh does not overflow.
    return np.asarray((1 + np.tanh(values / 2)) / 2, np.float32)


def _levels(probability: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(255 * np.clip(np.nan_to_num(probability), 0, 1)), np.uint8)
