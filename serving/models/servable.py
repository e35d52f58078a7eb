"""The interface between the endpoints and a served model.

`Model` implements it for one network in one engine; a cascade or an ensemble would be another
implementation.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from serving.base.errors import ServingError
from serving.base.memory import UNLIMITED, CallMemory
from serving.base.tensor import Array
from serving.batching.batch import BatchRecord
from serving.batching.ticket import Answer, Timing
from serving.images.decoding import (
    LoadedImage,
    Pixels,
    decode,
    from_raw,
    is_quick,
    sent_size,
    with_channels,
)
from serving.images.preprocess import load_image, transform, transform_bytes
from serving.models.facts import ModelFacts
from serving.models.times import Times
from serving.repository.manifest import Channels, EvalTransform

# Name of the input through which tensor calls may send image files; never declared in a config.
ENCODED_INPUT = "encoded"

# Bytes of an image that are copied at a time. More keep the GIL for longer, fewer cost more calls.
_SLICE = 1 << 20

Result = TypeVar("Result")


# Is told the bytes of a piece of work before it takes them, and raises where it may not.
Reserve = Callable[[int], None]


class EncodedImage(NamedTuple):
    """The bytes of an image file, or a view of the message that they came in."""

    data: bytes | memoryview

    @property
    def quick(self) -> bool:
        """Whether to decode it may cost less than the way to a thread and back."""
        return is_quick(self.data)

    def pixel_count(self, reserve: Reserve) -> int:
        """Pixels by the file's header; 0 where that cannot be read. It takes some 0.1 ms."""
        reserve(self._copied())
        height, width = sent_size(_whole(self.data))
        return height * width

    def decode(self, max_pixels: int, reserve: Reserve) -> Pixels:
        """uint8 HWC RGB; raises InvalidInput."""
        copied = self._copied()
        return decode(_whole(self.data), max_pixels, lambda plan: reserve(copied + plan.peak))

    def load(self, eval_transform: EvalTransform, max_pixels: int, reserve: Reserve) -> LoadedImage:
        """The pixels that the network sees; raises InvalidInput."""
        copied = self._copied()
        return load_image(
            _whole(self.data), eval_transform, max_pixels, lambda size: reserve(copied + size)
        )

    def _copied(self) -> int:
        """Bytes of the copy that decoders need."""
        return 0 if isinstance(self.data, bytes) else len(self.data)


def _whole(data: bytes | memoryview) -> bytes:
    """The bytes in one piece, copied in slices: one copy of megabytes would keep the GIL."""
    if isinstance(data, bytes):
        return data
    if len(data) <= _SLICE:
        return bytes(data)
    whole = io.BytesIO()
    for start in range(0, len(data), _SLICE):
        whole.write(data[start : start + _SLICE])
    return whole.getvalue()


class RawPixels(NamedTuple):
    """Uncompressed bytes with their size, RGB or grey."""

    data: bytes | memoryview
    height: int
    width: int
    channels: Channels = 3

    @property
    def quick(self) -> bool:
        """Pixels of the right size take another way; others are resized."""
        return False

    def pixel_count(self, _: Reserve) -> int:
        """Pixels by its size; 0 where it has not as many."""
        pixels = self.height * self.width
        return pixels if len(self.data) == self.channels * pixels else 0

    def decode(self, max_pixels: int, reserve: Reserve) -> Pixels:
        """uint8 HWC RGB; raises InvalidInput."""
        pixels = self.pixels(max_pixels)
        reserve(0 if self.channels == 3 else 3 * pixels.nbytes)
        return with_channels(pixels, 3)

    def load(self, eval_transform: EvalTransform, max_pixels: int, reserve: Reserve) -> LoadedImage:
        """The pixels that the network sees; raises InvalidInput."""
        image = self.pixels(max_pixels)
        needed = transform_bytes(self.height, self.width, eval_transform)
        if self.channels == eval_transform.channels:
            reserve(needed)
        else:
            # Between RGB and grey Pillow has a pixel in at most 4 bytes and 1, numpy in 3.
            reserve(needed + self.height * self.width * 5)
        return LoadedImage(transform(image, eval_transform), (self.height, self.width))

    def pixels(self, max_pixels: int) -> Pixels:
        """uint8 [height, width, channels] as they were sent; raises InvalidInput."""
        return from_raw(self.data, self.height, self.width, max_pixels, self.channels)


ImageSource = EncodedImage | RawPixels


class CallOptions(NamedTuple):
    """Options of a call beside its input.

    priority: 1 is the most urgent, 0 the model's default.
    deadline: when the caller gives up, in seconds on the monotonic clock; inf for never.
    timeout: seconds that the call asks for; inf for none.
    memory: what the call takes its memory of.
    caller: tells callers apart who share the batches; 0 where nobody does.
    """

    priority: int = 0
    deadline: float = math.inf
    timeout: float = math.inf
    memory: CallMemory = UNLIMITED
    caller: int = 0


class AnsweredImage(NamedTuple):
    """An image that has an answer.

    size: (height, width) of the image.
    timing: every stage but the postprocessing.
    """

    size: tuple[int, int]
    timing: Timing


class ImageAnswers(NamedTuple):
    """A network's answers to the images of one call.

    outputs: arrays [rows, ...] by name, a row for each image that has an answer; empty where none
        has.
    images: each image in its order, or the reason why it has no row.
    """

    outputs: Mapping[str, Array]
    images: Sequence[AnsweredImage | ServingError]


class Servable(Protocol):
    """One version that serves. Everything is called from the event loop."""

    @property
    def facts(self) -> ModelFacts:
        """Its description."""

    async def infer(self, inputs: Mapping[str, Array], rows: int, options: CallOptions) -> Answer:
        """Runs one call of tensors, by input name, batch dimension included.

        inputs: they fit `facts`: wires check the names, types and shapes that a caller declares
            before they take memory for an element (`declared.check_inputs`), and nobody does again.
        rows: of each of them, from 1 to `facts.max_rows`.
        Raises QueueFull, Shed, DeadlineExpired, ModelNotReady, and EngineError where the batch
        failed.
        """

    async def infer_images(
        self, sources: Sequence[ImageSource], options: CallOptions
    ) -> ImageAnswers:
        """Runs images as the rows of one call. One that cannot be decoded, or for which there is no
        memory, leaves the others alone. Raises WrongTask where the model takes no images, and the
        errors of `infer`."""

    async def infer_encoded(self, images: Sequence[bytes], options: CallOptions) -> Answer:
        """Runs image files as the rows of one call; one that cannot be decoded fails the call.
        Raises its error, and those of `infer_images`."""

    async def run_aside(
        self, work: Callable[[Reserve], Result], memory: CallMemory, deadline: float
    ) -> Result:
        """Runs work that takes milliseconds on a worker thread. Returns its result or raises its
        error.

        work: tells the bytes that it will take before it takes them. Work that would take much is
            begun again when it has its turn.
        memory: of the call.
        deadline: in monotonic seconds; work that has not begun then raises DeadlineExpired.
        """

    @property
    def times(self) -> Times:
        """Counts its calls, and their stages outside of it."""

    async def recent_batches(self) -> Sequence[BatchRecord]:
        """The newest batches, oldest first."""

    def stuck_for(self) -> float:
        """Seconds that the longest stuck batch has been running; 0 where none is stuck."""
