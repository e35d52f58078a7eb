"""One network behind the port of its batches: the Servable that most models are."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from serving.base.errors import InvalidInput, ServingError, WrongTask, without_frames
from serving.base.memory import LARGE, CallMemory, LargeWork, Reservation
from serving.base.metrics import FrontMetrics
from serving.base.task import IMAGE_INPUT
from serving.base.tensor import Array
from serving.base.turns import together
from serving.batching.batch import BatchRecord
from serving.batching.port import BatchPort, submitted
from serving.batching.ticket import Answer, Ticket
from serving.images.preprocess import keeps
from serving.images.tensor import ToTensor
from serving.models.facts import ModelFacts
from serving.models.servable import (
    AnsweredImage,
    CallOptions,
    EncodedImage,
    ImageAnswers,
    ImageSource,
    RawPixels,
    Reserve,
    Result,
)
from serving.models.times import Times
from serving.models.workers import Workers
from serving.repository.manifest import EvalTransform

# Bytes that decoding a quick image may take on the event loop: a JPEG of some 100x100 pixels for a
# network that sees no more, 20 to 70 us. Images of one call that are decoded there in one go. More
# of either holds up other calls.
_QUICK_BYTES = 384 << 10
_IN_ONE_GO = 16


class Model:
    """One version that serves; implements `Servable`.

    workers: the threads that decode images and finish answers.
    """

    def __init__(
        self, facts: ModelFacts, port: BatchPort, workers: Workers, metrics: FrontMetrics
    ) -> None:
        self.facts = facts
        self._port = port
        self._workers = workers
        self.times = Times(facts, metrics)
        # Attributes, since every call reads them.
        self._batches = facts.batches
        self._row_bytes = facts.row_bytes
        self._to_tensor = _to_tensor(facts)
        self._image_input = self._to_tensor.name if self._to_tensor else IMAGE_INPUT

    # Running.

    async def infer(self, inputs: Mapping[str, Array], rows: int, options: CallOptions) -> Answer:
        """Runs one call of tensors; its errors are those of `Servable.infer`."""
        ticket, trace = self._admit(rows, options), options.memory.trace
        try:
            answer = await submitted(self._port, ticket, (inputs,))
        except BaseException:
            self._port.withdraw(ticket)
            raise
        finally:
            if trace is not None:
                self.times.rode(trace, ticket.arrived, ticket.timing)
        self.times.answered(answer.timing, trace=trace)
        return answer

    async def infer_images(
        self, sources: Sequence[ImageSource], options: CallOptions
    ) -> ImageAnswers:
        """Runs images as the rows of one call; its errors are those of `Servable.infer_images`."""
        answer, loaded = await self._infer_images(sources, options)
        if answer is None:
            return ImageAnswers({}, [item for item in loaded if isinstance(item, ServingError)])
        outputs = answer.outputs
        if not self._batches:
            outputs = {name: array[np.newaxis] for name, array in outputs.items()}
        timing = answer.timing
        images = [
            item
            if isinstance(item, ServingError)
            else AnsweredImage(item.size, timing.with_decode(item.seconds))
            for item in loaded
        ]
        return ImageAnswers(outputs, images)

    async def infer_encoded(self, images: Sequence[bytes], options: CallOptions) -> Answer:
        """Runs image files as the rows of one call; its errors are those of
        `Servable.infer_encoded`."""
        sources = [EncodedImage(data) for data in images]
        answer, loaded = await self._infer_images(sources, options, alone=False)
        assert answer is not None
        answer.timing.decode = max(item.seconds for item in loaded if isinstance(item, _Loaded))
        return answer

    async def run_aside(
        self, work: Callable[[Reserve], Result], memory: CallMemory, deadline: float
    ) -> Result:
        """Runs work on one of the workers, as `Servable.run_aside`."""
        run, caller = self._workers.run, memory.caller_key
        try:
            with contextlib.suppress(LargeWork):
                return await run(caller, partial(_reserved, work, memory, deadline, LARGE))
            large = partial(_reserved, work, memory, deadline, math.inf)
            return await run(caller, large, large=True)
        except ServingError as error:  # kept by an answer; the thread's frames hold images
            raise without_frames(error) from None

    async def _infer_images(
        self, sources: Sequence[ImageSource], options: CallOptions, *, alone: bool = True
    ) -> "tuple[Answer | None, Sequence[_Loaded | ServingError]]":
        """The answer of one call with a row for each image that could be loaded; None where there
        is none.

        alone: an image that cannot be loaded fails alone; without it, it fails the call.
        """
        eval_transform = self.facts.transform
        if eval_transform is None:
            reason = "no manifest" if self.facts.manifest is None else "no images in its manifest"
            raise WrongTask(f"model {self.facts.name!r} takes tensors only: it has {reason}")
        self.facts.check_rows(len(sources))
        expected = len(sources) * self._row_bytes
        options.memory.hold("batch", expected)
        # The place is reserved before decoding, so that a refused call is not decoded.
        ticket = self._admit(len(sources), options)
        trace, queued = options.memory.trace, 0.0
        try:
            await self._port.confirm(ticket)
            began = time.monotonic() if trace is not None else 0.0
            loaded = await self._all_loaded(sources, eval_transform, options.memory, ticket)
            whole = [item for item in loaded if isinstance(item, _Loaded)]
            self.times.decoded([item.seconds for item in whole], began, trace)
            if options.memory.counts_pixels:
                options.memory.loaded(sum(math.prod(item.size) for item in whole))
            if len(whole) < len(sources):
                if not alone:
                    raise next(item for item in loaded if isinstance(item, ServingError))
                if not whole:
                    self._port.withdraw(ticket)
                    return None, loaded
                self._port.shrink(ticket, len(whole))
            queued = time.monotonic() if trace is not None else 0.0
            # One part an image: they are copied once, into the batch.
            parts = [{self._image_input: item.tensor} for item in whole]
            answer = await submitted(self._port, ticket, parts)
        except BaseException:
            self._port.withdraw(ticket)
            raise
        finally:
            if trace is not None and queued:
                self.times.rode(trace, queued, ticket.timing)
        # The rows of infer_encoded are one inference, as those of `infer`.
        self.times.answered(answer.timing, len(whole) if alone else 1, trace)
        size = sum([array.nbytes for array in answer.outputs.values()])
        size += sum([item.tensor.nbytes for item in whole])
        if size > expected:
            options.memory.hold("batch", size - expected)
        return answer, loaded

    async def _all_loaded(
        self,
        sources: Sequence[ImageSource],
        eval_transform: EvalTransform,
        memory: CallMemory,
        ticket: Ticket,
    ) -> "Sequence[_Loaded | ServingError]":
        if self._to_tensor is None and _all_fit(sources, eval_transform):
            # Pixels of the right size need no work, so no thread is worth its cost.
            max_pixels = self.facts.max_image_pixels
            return [_as_sent(source, max_pixels) for source in sources]
        loaded = partial(self._loaded, eval_transform, memory, ticket.deadline)
        if not all(source.quick for source in sources):
            return await together(loaded, sources)
        found: list[_Loaded | ServingError] = []
        for number, source in enumerate(sources, 1):
            found.append(self._loaded_here(eval_transform, ticket, source) or await loaded(source))
            if number % _IN_ONE_GO == 0:
                await asyncio.sleep(0)
        return found

    def _loaded_here(
        self, eval_transform: EvalTransform, ticket: Ticket, source: ImageSource
    ) -> "_Loaded | None":
        """A quick image, decoded on the event loop; None for what has to go to a thread, or fails,
        as its call's time is over or it is broken."""
        if time.monotonic() > ticket.deadline:
            return None
        try:
            return _load(
                source, eval_transform, self.facts.max_image_pixels, self._to_tensor, _quick_bytes
            )
        except ServingError:
            return None

    async def _loaded(
        self,
        eval_transform: EvalTransform,
        memory: CallMemory,
        deadline: float,
        source: ImageSource,
    ) -> "_Loaded | ServingError":
        max_pixels = self.facts.max_image_pixels
        work = partial(_load, source, eval_transform, max_pixels, self._to_tensor)
        try:
            return await self.run_aside(work, memory, deadline)
        except InvalidInput as error:
            if memory.counts_pixels:
                await self._count_broken(source, memory, deadline)
            return error
        except ServingError as error:
            return error

    async def _count_broken(self, source: ImageSource, memory: CallMemory, deadline: float) -> None:
        """Counts the pixels of an image that cannot be loaded: one that breaks at its end was
        decoded as others are. One that is too large was not."""
        with contextlib.suppress(ServingError):
            pixels = await self.run_aside(source.pixel_count, memory, deadline)
            if pixels <= self.facts.max_image_pixels:
                memory.loaded(pixels)

    def _admit(self, rows: int, options: CallOptions) -> Ticket:
        priority, deadline, timeout, _, caller = options
        return self._port.admit(rows, priority, deadline, timeout, caller)

    # Watching.

    async def recent_batches(self) -> Sequence[BatchRecord]:
        """The newest batches, oldest first."""
        return await self._port.recent_batches()

    def stuck_for(self) -> float:
        """Seconds that the longest stuck batch has been running; 0 where none is stuck."""
        return self._port.stuck_for()


class _Loaded(NamedTuple):
    """An image on its way into a batch.

    tensor: as the network takes it, batch dimension included where its input has one.
    size: (height, width) of the image as it was sent.
    seconds: time of decoding, resizing and converting it.
    """

    tensor: Array
    size: tuple[int, int]
    seconds: float


def _all_fit(sources: Sequence[ImageSource], eval_transform: EvalTransform) -> bool:
    """Whether all are pixels that the network takes as they are."""
    sizes = set()
    for source in sources:
        if not isinstance(source, RawPixels):
            return False
        sizes.add((source.height, source.width, source.channels))
    return all(keeps(*size, eval_transform) for size in sizes)


def _as_sent(source: ImageSource, max_pixels: int) -> "_Loaded | ServingError":
    """The pixels of an image that `_all_fit` let through."""
    assert isinstance(source, RawPixels)
    begin = time.monotonic()
    try:
        tensor = source.pixels(max_pixels)[np.newaxis]
    except InvalidInput as error:
        return error
    return _Loaded(tensor, (source.height, source.width), time.monotonic() - begin)


def _load(
    source: ImageSource,
    eval_transform: EvalTransform,
    max_pixels: int,
    to_tensor: ToTensor | None,
    reserve: Reserve,
) -> _Loaded:
    begin = time.monotonic()
    if to_tensor is None:
        image = source.load(eval_transform, max_pixels, reserve)
        tensor: Array = image.pixels[np.newaxis]
    else:
        converting = to_tensor.working_bytes(eval_transform.size)
        image = source.load(eval_transform, max_pixels, lambda size: reserve(size + converting))
        tensor = to_tensor(image.pixels)
    return _Loaded(tensor, image.size, time.monotonic() - begin)


def _quick_bytes(size: int) -> None:
    """Raises LargeWork where that is much for the event loop."""
    if size > _QUICK_BYTES:
        raise LargeWork("a thread decodes it", retry_after=0.0)


def _to_tensor(facts: ModelFacts) -> ToTensor | None:
    """The conversion of images for a network with an interface of its own; None where pixels are
    its input, or where it takes none."""
    interface = facts.manifest.interface if facts.manifest else None
    if interface is None or interface.input is None:
        return None
    return ToTensor(interface.input, facts.inputs[0])


def _reserved(
    work: Callable[[Reserve], Result], memory: CallMemory, deadline: float, most: float
) -> Result:
    """Runs on a worker thread."""
    with Reservation(memory, deadline, most) as reserve:
        return work(reserve)
