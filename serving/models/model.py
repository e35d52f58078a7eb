"""One loaded version of a model: engine, batcher, and the way of an image through both."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from serving.base.errors import InvalidInput, WrongTask, quoted
from serving.base.metrics import Metrics
from serving.base.task import IMAGE_INPUT, Task
from serving.base.tensor import Array
from serving.batching.batcher import DynamicBatcher
from serving.batching.ticket import Answer, Ticket, Timing
from serving.engines import Engine
from serving.images.decoding import LoadedImage, Pixels, decode, from_raw
from serving.images.preprocess import keeps, load_image, transform
from serving.repository.manifest import EvalTransform, Evidence, Manifest
from serving.repository.model_config import ModelConfig

ENCODED_INPUT = "encoded"

Labels = tuple[str, ...]


class EncodedImage(NamedTuple):
    """The bytes of an image file."""

    data: bytes

    def decode(self, max_pixels: int) -> Pixels:
        """uint8 HWC RGB; raises InvalidInput."""
        return decode(self.data, max_pixels)

    def load(self, eval_transform: EvalTransform, max_pixels: int) -> LoadedImage:
        """What the network sees of it; raises InvalidInput."""
        return load_image(self.data, eval_transform, max_pixels)


class RawPixels(NamedTuple):
    """Uncompressed RGB bytes with their size."""

    data: bytes
    height: int
    width: int

    def decode(self, max_pixels: int) -> Pixels:
        """uint8 HWC RGB; raises InvalidInput."""
        return from_raw(self.data, self.height, self.width, max_pixels)

    def load(self, eval_transform: EvalTransform, max_pixels: int) -> LoadedImage:
        """What the network sees of it; raises InvalidInput."""
        image = self.decode(max_pixels)
        return LoadedImage(transform(image, eval_transform), (self.height, self.width))


ImageSource = EncodedImage | RawPixels


class CallOptions(NamedTuple):
    """What a call may say beside its input: priority (1 most urgent, 0 the model's default),
    deadline (when its caller gives up, seconds on the monotonic clock) and timeout (the seconds
    that it asks for); inf for none of either."""

    priority: int = 0
    deadline: float = math.inf
    timeout: float = math.inf


class ImageAnswer(NamedTuple):
    """A network's outputs for one image.

    outputs: arrays by name, without the batch dimension.
    size: the image's (height, width).
    timing: filled but for the postprocessing.
    """

    outputs: Mapping[str, Array]
    size: tuple[int, int]
    timing: Timing


class Model:
    """One version that serves. Its methods are called from the event loop only."""

    def __init__(
        self,
        config: ModelConfig,
        version: int,
        *,
        engine: Engine,
        engine_name: str,
        variant: str,
        manifest: Manifest | None,
        labels_of: Mapping[str, Labels],
        batcher: DynamicBatcher,
        decoders: Executor,
        max_image_pixels: int,
        metrics: Metrics,
        rejected: tuple[str, ...],
    ) -> None:
        self.config = config
        self.name = config.name
        self.version = str(version)
        self.engine_name = engine_name
        self.variant = variant
        self.manifest = manifest
        # The classes of its task, and by output the labels that a ranking of it names.
        self.labels: Labels = manifest.classes if manifest else ()
        self.labels_of = labels_of
        self.rejected = rejected
        self.batcher = batcher
        self.counters = metrics.counters(self.name, self.version)
        self.metrics = metrics
        self.decoders = decoders
        self._engine = engine
        # Only TensorRT tells.
        self.device_bytes: int = getattr(engine, "device_bytes", 0)
        # As config.pbtxt promises them, or as the file has them where it promises none.
        self.inputs = config.inputs or engine.inputs
        self.outputs = config.outputs or engine.outputs
        self.input_names = frozenset(spec.name for spec in self.inputs)
        self.takes_text = any(spec.datatype == "BYTES" for spec in self.inputs)
        self.output_types = {spec.name: spec.datatype for spec in self.outputs}
        self.max_image_pixels = max_image_pixels
        self._max_rows = max(1, config.max_batch_size)
        self.request_seconds = metrics.request_seconds.labels(self.name, self.version)
        stages = metrics.stage_seconds
        self._seconds = {
            stage: stages.labels(self.name, self.version, stage)
            for stage in ("decode", "queue", "infer", "postprocess")
        }
        self._queue_seconds = self._seconds["queue"]
        self._infer_seconds = self._seconds["infer"]

    @property
    def task(self) -> Task | None:
        """What it is for; None for a model without a manifest, which has tensors only."""
        return self.manifest.task if self.manifest else None

    @property
    def transform(self) -> EvalTransform | None:
        """How images are brought to the network's size; None where it takes none."""
        return self.manifest.transform if self.manifest else None

    @property
    def evidence(self) -> Evidence | None:
        """What was measured of the variant and engine that serve; None where nothing was."""
        for variant in self.manifest.variants if self.manifest else ():
            if variant.id == self.variant:
                return variant.evidence.get(self.engine_name)
        return None

    def observe(self, stage: str, seconds: float) -> None:
        """Counts the time of one inference in one stage."""
        self._seconds[stage].observe(seconds)

    async def infer(self, inputs: Mapping[str, Array], options: CallOptions) -> Answer:
        """Runs one call of tensors, by input name, batch dimension included.

        Raises InvalidInput for a name, type or shape that does not fit, and what the batcher
        raises.
        """
        ticket = self._admit(self._check(inputs), options)
        return self._observed(await self.batcher.submit(ticket, inputs))

    async def infer_image(self, source: ImageSource, options: CallOptions) -> ImageAnswer:
        """Runs one image.

        Raises WrongTask where the model takes no images, InvalidInput where this one cannot be
        decoded, and what the batcher raises.
        """
        answer, [loaded] = await self._infer_images([source], options)
        return ImageAnswer(
            outputs={name: array[0] for name, array in answer.outputs.items()},
            size=loaded.image.size,
            timing=answer.timing,
        )

    async def infer_encoded(self, images: Sequence[bytes], options: CallOptions) -> Answer:
        """Runs image files as the rows of one call of tensors; raises what infer_image raises. One
        that cannot be decoded fails the call."""
        answer, _ = await self._infer_images([EncodedImage(data) for data in images], options)
        return answer

    async def _infer_images(
        self, sources: Sequence[ImageSource], options: CallOptions
    ) -> "tuple[Answer, list[_Loaded]]":
        if self.transform is None:
            raise WrongTask(f"model {self.name!r} takes tensors only: it has no manifest")
        self._check_rows(len(sources))
        # The place is reserved before anything is decoded: what is refused costs nothing more.
        ticket = self._admit(len(sources), options)
        try:
            if len(sources) == 1:
                loaded = [await self._loaded(sources[0], self.transform)]
            else:
                each = (self._loaded(source, self.transform) for source in sources)
                loaded = await asyncio.gather(*each)
            # A part for each image: the batch is the only memory that they are copied to.
            parts = [{IMAGE_INPUT: item.image.pixels[np.newaxis]} for item in loaded]
        except BaseException:
            self.batcher.withdraw(ticket)
            raise
        ticket.timing.decode = max(item.seconds for item in loaded)
        answer = self._observed(await self.batcher.submit(ticket, *parts))
        for item in loaded:
            self.observe("decode", item.seconds)
        return answer, loaded

    async def _loaded(self, source: ImageSource, eval_transform: EvalTransform) -> "_Loaded":
        if isinstance(source, RawPixels) and keeps(source.height, source.width, eval_transform):
            # Nothing is to be done, and a thread to do it would cost the most.
            return _load(source, eval_transform, self.max_image_pixels)
        return await asyncio.get_running_loop().run_in_executor(
            self.decoders, _load, source, eval_transform, self.max_image_pixels
        )

    def _admit(self, rows: int, options: CallOptions) -> Ticket:
        return self.batcher.admit(rows, options.priority, options.deadline, options.timeout)

    def _observed(self, answer: Answer) -> Answer:
        self._queue_seconds.observe(answer.timing.queue)
        self._infer_seconds.observe(answer.timing.infer)
        return answer

    def _check(self, inputs: Mapping[str, Array]) -> int:
        """The number of rows of a call; raises InvalidInput where it does not fit the model."""
        for name in inputs:
            if name not in self.input_names:
                raise InvalidInput(
                    f"model {self.name!r} has no input {quoted(name)}; "
                    f"its inputs are {sorted(self.input_names)}"
                )
        rows = 1
        for position, spec in enumerate(self.inputs):
            array = inputs.get(spec.name)
            if array is None:
                raise InvalidInput(
                    f"input {spec.name!r} of model {self.name!r} is missing; "
                    f"got {quoted(sorted(inputs))}"
                )
            if array.dtype != spec.dtype or not spec.fits(array.shape):
                raise InvalidInput(
                    f"input {spec.name!r} of model {self.name!r}: expected "
                    f"{spec.datatype} {list(spec.shape)}, got {array.dtype} {list(array.shape)}"
                )
            if self.config.max_batch_size > 0:
                if position and array.shape[0] != rows:
                    raise InvalidInput(
                        f"input {spec.name!r} has {array.shape[0]} rows, the others {rows}"
                    )
                rows = array.shape[0]
        self._check_rows(rows)
        return rows

    def _check_rows(self, rows: int) -> None:
        if not 1 <= rows <= self._max_rows:
            raise InvalidInput(
                f"batch of {rows} for model {self.name!r}: expected 1 to {self._max_rows} rows"
            )

    async def drain(self, seconds: float) -> bool:
        """Answers what was accepted, takes no more; False where that took longer than allowed."""
        return await self.batcher.drain(seconds)

    def close(self) -> None:
        """Frees the engine. Call after drain."""
        self.batcher.close()
        self._engine.close()


class _Loaded(NamedTuple):
    """What the network sees of an image, and the seconds that it took to get there."""

    image: LoadedImage
    seconds: float


def _load(source: ImageSource, eval_transform: EvalTransform, max_pixels: int) -> _Loaded:
    """Runs on a worker thread."""
    begin = time.monotonic()
    image = source.load(eval_transform, max_pixels)
    return _Loaded(image, time.monotonic() - begin)
