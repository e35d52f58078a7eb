"""Answers of Segment on the wire. They may have many MiB, so that they are put together by hand:
protobuf would copy each mask twice more, with the GIL held all along."""

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from protos.gen import vision_pb2 as pb
from serving.base.errors import AnswerTooLarge, InvalidInput
from serving.images.postprocess import Mask, palette_png, runs_of
from serving.models.facts import ModelFacts
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.vision import Segmentation
from serving.server.rpc.fields import bytes_field

# A piece of a message: parts, in their order.
Parts = list[bytes | memoryview]

# Advice to the caller whose answer is too large.
INSTEAD = "send fewer or smaller images, ask for masks of the model's size, or for PNG or RLE"
# Bytes of an answer that the event loop puts together itself. More hold it up, fewer cost a call
# the way to a thread and back, some 0.1 ms.
SMALL = 1 << 18

# A part of an answer is there by itself and in the whole answer.
_COPIES = 2
# Bytes that are copied at a time. More keep the GIL for longer, fewer cost more calls.
_SLICE = 1 << 20
_MASK = pb.Segmentation.DESCRIPTOR.fields_by_name
_RUNS = pb.RunLengths.DESCRIPTOR.fields_by_name["runs"].number
_RESULTS = pb.SegmentResponse.DESCRIPTOR.fields_by_name["results"].number


class AnswerSize:
    """The bytes of an answer so far, which its call holds.

    most: bytes that it may have.
    """

    def __init__(self, call: InferenceCall, most: int) -> None:
        self.total = 0
        self._call = call
        self._most = most

    def add(self, parts: Parts) -> Parts:
        """Counts the parts, and returns them. Raises AnswerTooLarge, QueueFull."""
        size = _size(parts)
        self.total += size
        if self.total > self._most:
            raise AnswerTooLarge(f"the answer has over {self._most} bytes; {INSTEAD}")
        self._call.hold("answer", _COPIES * size)
        return parts


def check_form(mask_format: int, facts: ModelFacts) -> None:
    """Raises InvalidInput where the classes of a model do not fit into a form of masks."""
    if mask_format not in (pb.MASK_FORMAT_RLE, pb.MASK_FORMAT_RAW) and len(facts.labels) > 256:
        raise InvalidInput(
            f"mask_format: a palette PNG holds 256 classes, model {facts.name!r} has "
            f"{len(facts.labels)}; ask for RLE or raw"
        )


def mask_field(mask: Mask, mask_format: int, most: int) -> Parts:
    """The field of a Segmentation with a mask in a form. Raises AnswerTooLarge past `most` bytes.
    Takes milliseconds: for a worker thread."""
    if mask_format == pb.MASK_FORMAT_RAW:
        whole = np.ascontiguousarray(mask).data.cast("B")
        return _field(_MASK["raw"].number, [whole])
    if mask_format != pb.MASK_FORMAT_RLE:
        return _field(_MASK["palette_png"].number, [palette_png(mask, most)])
    runs: Parts = []
    size = 0
    for piece in runs_of(mask):
        runs.append(varints(piece))
        size += len(runs[-1])
        if size > most:
            raise AnswerTooLarge(f"the runs of the mask have over {most} bytes; {INSTEAD}")
    return _field(_MASK["rle"].number, _field(_RUNS, runs))


def result_field(found: Segmentation[Parts], timing: dict[str, int]) -> Parts:
    """One result of a SegmentResponse."""
    head = pb.Segmentation(timing=timing, height=found.height, width=found.width)
    for area in found.areas:
        head.areas.add(
            index=area.index, name=area.name, fraction=area.fraction, confidence=area.confidence
        )
    parts = [head.SerializeToString(), *found.mask]
    if found.overlay_png is not None:
        parts += _field(_MASK["overlay_png"].number, [found.overlay_png])
    return _field(_RESULTS, parts)


def failed_field(status: pb.Status) -> Parts:
    """The result of an image that failed."""
    return _field(_RESULTS, [pb.Segmentation(status=status).SerializeToString()])


def segment_response(served: pb.Served, results: Iterable[Parts]) -> bytes:
    """A serialised SegmentResponse."""
    whole = io.BytesIO(pb.SegmentResponse(served=served).SerializeToString())
    whole.seek(0, io.SEEK_END)
    for result in results:
        for part in result:
            view = memoryview(part)
            for start in range(0, len(view), _SLICE):
                whole.write(view[start : start + _SLICE])
    return whole.getvalue()


def varints(values: NDArray[np.uint32]) -> bytes:
    """Numbers as protobuf packs them: 7 bits a byte, the lowest first; the highest bit says that
    another byte follows."""
    sizes = np.ones(values.shape, np.int64)
    for bits in (7, 14, 21, 28):
        sizes += values >= 1 << bits
    starts = np.cumsum(sizes) - sizes
    packed = np.zeros(int(sizes.sum()), np.uint8)
    for place in range(int(sizes.max(initial=0))):
        longer = sizes > place
        more = np.where(sizes[longer] > place + 1, 0x80, 0)
        packed[starts[longer] + place] = values[longer] >> 7 * place & 0x7F | more
    return packed.tobytes()


def _field(number: int, parts: Parts) -> Parts:
    """A field of bytes: its head, then its content."""
    return [bytes_field(number, _size(parts)), *parts]


def _size(parts: Parts) -> int:
    return sum(len(part) for part in parts)
