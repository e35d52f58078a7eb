"""The three vision tasks on a loaded model: an image in, a typed answer out. Knows no wire."""

import time
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.base.errors import InvalidInput, WrongTask
from serving.base.task import PROBABILITY_OUTPUT, Task
from serving.batching.ticket import Timing
from serving.images import postprocess
from serving.models.servable import CallOptions, ImageAnswer, ImageSource, ModelFacts, Servable

DEFAULT_TOP_K = 5


@dataclass(slots=True)
class Label:
    """A class and its softmax score in [0, 1]."""

    index: int
    name: str
    score: float


class Classification(NamedTuple):
    """The best classes of one image, best first."""

    labels: tuple[Label, ...]
    timing: Timing


@dataclass(frozen=True, slots=True)
class ClassArea:
    """A class that is in a mask: its share of the pixels, and its mean probability over them."""

    index: int
    name: str
    fraction: float
    confidence: float


class Segmentation(NamedTuple):
    """A class map [H, W] and, on request, a PNG of it drawn over the image."""

    mask: postprocess.Mask
    areas: tuple[ClassArea, ...]
    palette_png: bytes | None
    overlay_png: bytes | None
    timing: Timing


class Embedding(NamedTuple):
    """A point on the unit sphere, float32 [D]."""

    values: NDArray[np.float32]
    timing: Timing


def require_task(model: Servable, task: Task) -> None:
    """Raises WrongTask where the model was made for another one, or only for tensors."""
    if model.facts.task != task:
        made_for = model.facts.task or "plain tensors (it has no manifest)"
        raise WrongTask(f"model {model.facts.name!r} is for {made_for}, not for {task}")


async def classify(
    model: Servable,
    source: ImageSource,
    options: CallOptions,
    *,
    top_k: int = DEFAULT_TOP_K,
    threshold: float = 0.0,
) -> Classification:
    """Ranks the classes of an image; at most `top_k`, none below `threshold`.

    Raises InvalidInput, WrongTask, and ServingErrors of the model.
    """
    require_task(model, "classification")
    if top_k < 1:
        raise InvalidInput(f"top_k: expected 1 or more, got {top_k}")
    if not 0.0 <= threshold <= 1.0:
        raise InvalidInput(f"threshold: expected 0 to 1, got {threshold}")
    answer = await model.infer_image(source, options)
    begin = time.monotonic()
    scores = postprocess.softmax(answer.outputs["logits"])
    best = postprocess.top_k(scores, top_k)
    labels = tuple(
        Label(index, class_name(model.facts, index), score)
        for index, score in zip(best.tolist(), scores[best].tolist(), strict=True)
        if score >= threshold
    )
    answer.timing.postprocess = time.monotonic() - begin
    model.observe("postprocess", answer.timing.postprocess)
    return Classification(labels, answer.timing)


async def segment(
    model: Servable,
    source: ImageSource,
    options: CallOptions,
    *,
    mask_size: Literal["image", "model"] = "image",
    png: bool = False,
    overlay: bool = False,
) -> Segmentation:
    """Gives each pixel its class, at the size of the image or of the model.

    Raises WrongTask, and ServingErrors of the model.
    """
    require_task(model, "segmentation")
    answer = await model.infer_image(source, options)

    def finish() -> Segmentation:
        begin = time.monotonic()
        mask, confidence = _mask_and_confidence(answer)
        areas = tuple(
            ClassArea(index, class_name(model.facts, index), fraction, mean)
            for index, fraction, mean in postprocess.class_areas(mask, confidence)
        )
        at_image = postprocess.resize_mask(mask, *answer.size)
        shown = at_image if mask_size == "image" else mask
        palette_png = postprocess.palette_png(shown) if png else None
        overlay_png = None
        if overlay:
            # Decoded once more, in full: not every image that waits for its batch is kept as well.
            image = source.decode(model.facts.max_image_pixels)
            overlay_png = postprocess.overlay_png(image, at_image)
        answer.timing.postprocess = time.monotonic() - begin
        return Segmentation(shown, areas, palette_png, overlay_png, answer.timing)

    # Resizing and encoding take milliseconds: on the event loop they would hold up everybody.
    result = await model.run_aside(finish)
    model.observe("postprocess", result.timing.postprocess)
    return result


async def embed(model: Servable, source: ImageSource, options: CallOptions) -> Embedding:
    """Gives an image its point on the unit sphere. Raises WrongTask and
    ServingErrors of the model."""
    require_task(model, "embedding")
    answer = await model.infer_image(source, options)
    return Embedding(answer.outputs["embedding"], answer.timing)


def class_name(facts: ModelFacts, index: int) -> str:
    """The name of a class, or its number where the model names none."""
    return facts.labels[index] if index < len(facts.labels) else str(index)


def _mask_and_confidence(answer: ImageAnswer) -> tuple[postprocess.Mask, NDArray[np.uint8]]:
    probability = answer.outputs.get(PROBABILITY_OUTPUT)
    if probability is not None:
        return postprocess.binary_mask(probability)
    return answer.outputs["mask"], answer.outputs["confidence"]
