"""The three vision tasks on a loaded model: an image in, a typed answer out. Knows no wire."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.base.errors import AnswerTooLarge, InvalidInput, WrongTask
from serving.base.task import TASKS, Task
from serving.batching.ticket import Timing
from serving.images import answers, postprocess
from serving.models.facts import ModelFacts
from serving.models.servable import CallOptions, ImageSource, Reserve, Servable

DEFAULT_TOP_K = 5

# The form in which a wire sends a mask.
Form = TypeVar("Form")


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


class Segmentation(NamedTuple, Generic[Form]):
    """A class map of height x width in the form that was asked for and, on request, a PNG of it
    drawn over the image."""

    mask: Form
    height: int
    width: int
    areas: tuple[ClassArea, ...]
    overlay_png: bytes | None
    timing: Timing


class Embedding(NamedTuple):
    """A point on the unit sphere, float32 [D]."""

    values: NDArray[np.float32]
    timing: Timing


def require_task(model: Servable, task: Task) -> None:
    """Raises WrongTask where the model was made for another one, or only for tensors."""
    if model.facts.task != task:
        reason = "it has no manifest" if model.facts.manifest is None else "no task is described"
        made_for = model.facts.task or f"plain tensors ({reason})"
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
    scores = answers.scores_of(answer.outputs, model.facts.answer)
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
    form: Callable[[postprocess.Mask], Form],
    *,
    mask_size: Literal["image", "model"] = "image",
    overlay: bool = False,
    most: int,
) -> Segmentation[Form]:
    """Gives each pixel its class, at the size of the image or of the model.

    form: makes the form in which the mask is sent, of `most` bytes at most, on a worker thread; it
        takes the memory of `postprocess.mask_bytes`.
    most: bytes of an answer.
    Raises WrongTask, AnswerTooLarge, and ServingErrors of the model.
    """
    require_task(model, "segmentation")
    answer = await model.infer_image(source, options)

    def finish(reserve: Reserve) -> Segmentation[Form]:
        begin = time.monotonic()
        described = model.facts.answer
        if described is not None:
            reserve(answers.mask_bytes(answer.outputs, described))
        mask, confidence = answers.mask_of(answer.outputs, described)
        areas = tuple(
            ClassArea(index, class_name(model.facts, index), fraction, mean)
            for index, fraction, mean in postprocess.class_areas(mask, confidence)
        )
        height, width = answer.size if mask_size == "image" else mask.shape
        needed = postprocess.mask_bytes(height, width, mask.itemsize, most)
        if not overlay:
            reserve(needed)
            formed = form(postprocess.resize_mask(mask, height, width))
            overlay_png = None
        else:
            needed += postprocess.overlay_bytes(*answer.size, mask.itemsize, most)
            # Decoded once more, in full: not every image that waits for its batch is kept as well.
            image = source.decode(
                model.facts.max_image_pixels, lambda decoding: reserve(needed + decoding)
            )
            at_image = postprocess.resize_mask(mask, *answer.size)
            formed = form(at_image if mask_size == "image" else mask)
            overlay_png = postprocess.overlay_png(image, at_image, most)
        answer.timing.postprocess = time.monotonic() - begin
        return Segmentation(formed, height, width, areas, overlay_png, answer.timing)

    # Resizing and encoding take milliseconds: on the event loop they would hold up everybody.
    result = await model.run_aside(finish, options.memory, options.deadline)
    model.observe("postprocess", result.timing.postprocess)
    return result


async def check_raw_masks(
    model: Servable,
    sources: Sequence[ImageSource],
    options: CallOptions,
    most: int,
    instead: str,
) -> None:
    """Refuses a call for raw masks at the size of its images by their headers, before they are
    decoded. Raises WrongTask, and AnswerTooLarge where the masks have over `most` bytes.

    instead: what the caller may do.
    """
    require_task(model, "segmentation")
    most_pixels = model.facts.max_image_pixels

    def total(reserve: Reserve) -> int:
        counts = [source.pixel_count(reserve) for source in sources]
        # A larger image fails alone, without a mask.
        return sum(count for count in counts if count <= most_pixels)

    pixels = await model.run_aside(total, options.memory, options.deadline)
    size = pixels * _item_size(model.facts)
    if size > most:
        raise AnswerTooLarge(
            f"the raw masks of {len(sources)} images take {size} bytes, an answer holds {most}; "
            f"{instead}"
        )


async def embed(model: Servable, source: ImageSource, options: CallOptions) -> Embedding:
    """Gives an image its point on the unit sphere. Raises WrongTask and
    ServingErrors of the model."""
    require_task(model, "embedding")
    answer = await model.infer_image(source, options)
    return Embedding(answers.embedding_of(answer.outputs, model.facts.answer), answer.timing)


def class_name(facts: ModelFacts, index: int) -> str:
    """The name of a class, or its number where the model names none."""
    return facts.labels[index] if index < len(facts.labels) else str(index)


def _item_size(facts: ModelFacts) -> int:
    """Bytes of a pixel of a mask."""
    if facts.answer is not None:
        return 1 if 0 < len(facts.labels) <= 256 else 2
    output = TASKS["segmentation"].output
    return next((spec.dtype.itemsize for spec in facts.outputs if spec.name == output), 1)
