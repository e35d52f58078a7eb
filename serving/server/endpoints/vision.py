"""The three vision tasks on a loaded model: an image in, a typed answer out. Knows no wire."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.base.errors import AnswerTooLarge, InvalidInput, ServingError, WrongTask
from serving.base.task import TASKS, Task
from serving.base.tensor import Array
from serving.base.turns import together
from serving.batching.ticket import Timing
from serving.images import answers, postprocess
from serving.models.facts import ModelFacts
from serving.models.servable import AnsweredImage, CallOptions, ImageSource, Reserve, Servable

DEFAULT_TOP_K = 5

# Bytes of outputs that are read on the event loop. More hold it up, fewer cost 0.1 ms of a thread.
_SMALL = 64 << 10
# Arrays of the size of the outputs that reading them takes.
_COPIES = 4

# The form in which a wire sends a mask.
Form = TypeVar("Form")
Value = TypeVar("Value")
Result = TypeVar("Result")
# An image that has a row of the outputs.
_Row = tuple[ImageSource, AnsweredImage]
# Makes the results of images, of the outputs with a row for each.
_Results = Sequence[Result | ServingError]
_Read = Callable[[Sequence[_Row], Mapping[str, Array]], Awaitable[_Results[Result]]]


@dataclass(slots=True)
class Label:
    """A class and its softmax score in [0, 1]."""

    index: int
    name: str
    score: float


class Classification(NamedTuple):
    """The best classes of one image, best first."""

    labels: list[Label]
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
    sources: Sequence[ImageSource],
    options: CallOptions,
    *,
    top_k: int = DEFAULT_TOP_K,
    threshold: float = 0.0,
) -> list[Classification | ServingError]:
    """Ranks the classes of each image; at most `top_k`, none below `threshold`. An image that fails
    has its error instead.

    Raises InvalidInput, WrongTask, and ServingErrors of the model.
    """
    require_task(model, "classification")
    if top_k < 1:
        raise InvalidInput(f"top_k: expected 1 or more, got {top_k}")
    if not 0.0 <= threshold <= 1.0:
        raise InvalidInput(f"threshold: expected 0 to 1, got {threshold}")

    ranked = partial(_ranked, model.facts, top_k, threshold)
    read = partial(_at_once, model, options, ranked, Classification)
    return await _in_calls(model, sources, options, read)


def _ranked(
    facts: ModelFacts, top_k: int, threshold: float, outputs: Mapping[str, Array]
) -> list[list[Label]]:
    """The best classes of each row."""
    scores = answers.scores_of(outputs, facts.answer)
    best = postprocess.top_k(scores, top_k)
    found = scores[np.arange(len(best))[:, np.newaxis], best]
    return [
        [
            Label(index, class_name(facts, index), score)
            for index, score in zip(indices, values, strict=True)
            if score >= threshold
        ]
        for indices, values in zip(best.tolist(), found.tolist(), strict=True)
    ]


async def segment(
    model: Servable,
    sources: Sequence[ImageSource],
    options: CallOptions,
    form: Callable[[postprocess.Mask], Form],
    *,
    mask_size: Literal["image", "model"] = "image",
    overlay: bool = False,
    most: int,
    take: Callable[[Segmentation[Form]], Result],
) -> list[Result | ServingError]:
    """Gives each pixel of each image its class, at the size of the image or of the model. An image
    that fails has its error instead.

    form: makes the form in which the mask is sent, of `most` bytes at most, on a worker thread; it
        takes the memory of `postprocess.mask_bytes`.
    most: bytes of an answer.
    take: called with the answer to an image as soon as it is there; returns its result.
    Raises WrongTask, and AnswerTooLarge.
    """
    require_task(model, "segmentation")
    finish = _Finish(model.facts, form, mask_size, overlay, most)

    async def one(part: tuple[_Row, Mapping[str, Array]]) -> Result | ServingError:
        # Resizing and encoding take milliseconds: on the event loop they would hold up everybody.
        work = partial(finish, *part)
        try:
            found = await model.run_aside(work, options.memory, options.deadline)
            model.times.ran("postprocess", found.timing.postprocess, 1, options.memory.trace)
            return take(found)
        except AnswerTooLarge:
            raise
        except ServingError as error:
            return error

    async def read(rows: Sequence[_Row], outputs: Mapping[str, Array]) -> _Results[Result]:
        parts = [
            (row, {name: array[i] for name, array in outputs.items()}) for i, row in enumerate(rows)
        ]
        return await together(one, parts)

    return await _in_calls(model, sources, options, read)


@dataclass(frozen=True, slots=True)
class _Finish(Generic[Form]):
    """Makes the answers of one call of `segment`, whose arguments it has."""

    facts: ModelFacts
    form: Callable[[postprocess.Mask], Form]
    mask_size: Literal["image", "model"]
    overlay: bool
    most: int

    def __call__(
        self, row: _Row, outputs: Mapping[str, Array], reserve: Reserve
    ) -> Segmentation[Form]:
        """The answer to one image, of its row of the outputs; on a worker thread."""
        (source, image), facts, most = row, self.facts, self.most
        begin = time.monotonic()
        described = facts.answer
        if described is not None:
            reserve(answers.mask_bytes(outputs, described))
        mask, confidence = answers.mask_of(outputs, described)
        areas = tuple(
            ClassArea(index, class_name(facts, index), fraction, mean)
            for index, fraction, mean in postprocess.class_areas(mask, confidence)
        )
        height, width = image.size if self.mask_size == "image" else mask.shape
        needed = postprocess.mask_bytes(height, width, mask.itemsize, most)
        if not self.overlay:
            reserve(needed)
            formed = self.form(postprocess.resize_mask(mask, height, width))
            overlay_png = None
        else:
            needed += postprocess.overlay_bytes(*image.size, mask.itemsize, most)
            # Decoded once more, in full: not every image that waits for its batch is kept as well.
            pixels = source.decode(
                facts.max_image_pixels, lambda decoding: reserve(needed + decoding)
            )
            at_image = postprocess.resize_mask(mask, *image.size)
            formed = self.form(at_image if self.mask_size == "image" else mask)
            overlay_png = postprocess.overlay_png(pixels, at_image, most)
        image.timing.postprocess = time.monotonic() - begin
        return Segmentation(formed, height, width, areas, overlay_png, image.timing)


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


async def embed(
    model: Servable, sources: Sequence[ImageSource], options: CallOptions
) -> list[Embedding | ServingError]:
    """Gives each image its point on the unit sphere. An image that fails has its error instead.
    Raises WrongTask."""
    require_task(model, "embedding")
    points = partial(answers.embeddings_of, described=model.facts.answer)
    read = partial(_at_once, model, options, points, Embedding)
    return await _in_calls(model, sources, options, read)


def only(results: Sequence[Result | ServingError]) -> Result:
    """The result of a call of one image. Raises its error."""
    [result] = results
    if isinstance(result, ServingError):
        raise result
    return result


async def _in_calls(
    model: Servable, sources: Sequence[ImageSource], options: CallOptions, read: _Read[Result]
) -> list[Result | ServingError]:
    """The result of every image, in their order. Images run together, in as few calls as the model
    allows: they share a place in the queue, and the batch waits for the last to be decoded.

    read: makes the results of images that have an answer.
    Raises AnswerTooLarge; any other ServingError is that of its images.
    """
    most = model.facts.max_rows
    if len(sources) <= most:
        return await _call(model, sources, options, read)
    parts = [sources[start : start + most] for start in range(0, len(sources), most)]
    found = await together(lambda part: _call(model, part, options, read), parts)
    return [result for results in found for result in results]


# Nested functions would cost more here: Python makes their annotations anew in every call.
async def _call(
    model: Servable, sources: Sequence[ImageSource], options: CallOptions, read: _Read[Result]
) -> list[Result | ServingError]:
    try:
        outputs, images = await model.infer_images(sources, options)
        rows = [
            (source, image)
            for source, image in zip(sources, images, strict=True)
            if isinstance(image, AnsweredImage)
        ]
        results = iter(await read(rows, outputs) if rows else ())
        return [i if isinstance(i, ServingError) else next(results) for i in images]
    except AnswerTooLarge:
        raise
    except ServingError as error:
        return [error] * len(sources)


async def _at_once(
    model: Servable,
    options: CallOptions,
    values_of: Callable[[Mapping[str, Array]], Iterable[Value]],
    result: Callable[[Value, Timing], Result],
    rows: Sequence[_Row],
    outputs: Mapping[str, Array],
) -> Sequence[Result]:
    """The results of images by a value for each row of the outputs, which are read in one piece."""
    size = sum([array.nbytes for array in outputs.values()])
    work = partial(_timed, values_of, outputs, _COPIES * size)
    if size <= _SMALL:
        values, seconds = work(lambda _: None)
    else:
        values, seconds = await model.run_aside(work, options.memory, options.deadline)
    share = seconds / len(rows)
    model.times.ran("postprocess", share, len(rows), options.memory.trace)
    results = []
    for value, (_, image) in zip(values, rows, strict=True):
        image.timing.postprocess = share
        results.append(result(value, image.timing))
    return results


def _timed(
    values_of: Callable[[Mapping[str, Array]], Value],
    outputs: Mapping[str, Array],
    size: int,
    reserve: Reserve,
) -> tuple[Value, float]:
    """The values of outputs, and the seconds of making them."""
    reserve(size)
    begin = time.monotonic()
    return values_of(outputs), time.monotonic() - begin


def class_name(facts: ModelFacts, index: int) -> str:
    """The name of a class, or its number where the model names none."""
    return facts.labels[index] if index < len(facts.labels) else str(index)


def _item_size(facts: ModelFacts) -> int:
    """Bytes of a pixel of a mask."""
    if facts.answer is not None:
        return 1 if 0 < len(facts.labels) <= 256 else 2
    output = TASKS["segmentation"].output
    return next((spec.dtype.itemsize for spec in facts.outputs if spec.name == output), 1)
