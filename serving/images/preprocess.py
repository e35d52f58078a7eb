"""Turns an image into the uint8 pixels that a network sees.

Training's evaluation, calibration and verification use these functions too, so that a network is
measured on the pixels that it is served with. Normalisation is inside the graph. All functions are
pure; the native calls release the GIL.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from serving.base.errors import InvalidInput
from serving.images.cost import Plan
from serving.images.decoding import (
    DEFAULT_MAX_PIXELS,
    LoadedImage,
    Pixels,
    decode_for,
    with_channels,
)
from serving.repository.manifest import EvalTransform

_PILLOW_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# Bytes of a pixel in Pillow's image, by channels.
_PILLOW_PIXEL = {1: 1, 3: 4}

# Target pixels on each side of a crop that are searched for a border on a whole source pixel.
# Larger may resize more pixels that the crop drops, smaller finds no border more often and then
# resizes all.
_EDGES = 16
# Source pixels by which such a border may be off. Larger saves more time, smaller is closer to
# cropping the full resize.
_CUT_PIXELS = 1 / 16

# A crop that is smaller than the image that it was cut from by more than this factor is copied.
# Larger holds more memory, smaller copies more often.
_KEPT_WHOLE = 2


def load_image(
    data: bytes,
    eval_transform: EvalTransform,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    reserve: Callable[[int], None] = lambda _: None,
) -> LoadedImage:
    """Decodes and transforms an image file: uint8 [height, width, channels] as the network sees it.

    A JPEG far larger than the network's input is reduced while it is decoded, by 2, 4 or 8, which
    costs a fraction of the time and memory. Raises the errors of `decode` and `transform`.

    reserve: is told the bytes that this will take at most before they are taken, once more where a
        second decoder takes the place of the first; an error that it raises prevents the decode.
    """

    def target_size(height: int, width: int) -> tuple[int, int]:
        return _target(height, width, eval_transform)

    def planned(plan: Plan) -> None:
        transformed = transform_bytes(plan.height, plan.width, eval_transform)
        reserve(max(plan.peak, plan.kept + transformed))

    decoded = decode_for(data, target_size, max_pixels, planned, eval_transform.channels)
    return LoadedImage(_transformed(decoded.pixels, decoded.size, eval_transform), decoded.size)


def transform_bytes(height: int, width: int, eval_transform: EvalTransform) -> int:
    """The bytes that `transform` takes at most beside an image of this size, its result included.

    "area" resizes to as much as the whole target. The other filters go by Pillow, which copies the
    image, RGB to 4 bytes a pixel, resizes its width and then its height. Raises the errors of
    `transform`.
    """
    rows, columns = _target(height, width, eval_transform)
    channels = eval_transform.channels
    crop = eval_transform.crop or (rows, columns)
    result = 2 * channels * crop[0] * crop[1]
    if eval_transform.filter == "area":
        return result + channels * rows * columns
    pixel = _PILLOW_PIXEL[channels]
    return result + pixel * (height * width + height * crop[1] + crop[0] * crop[1])


def transform(image: Pixels, eval_transform: EvalTransform) -> Pixels:
    """Converts, resizes and crops uint8 HWC, RGB or grey, to the network's input, uint8 [height,
    width, channels].

    "area" averages the source pixels under each target pixel (OpenCV's INTER_AREA; linear when it
    enlarges); the borders of a crop may be off by a sixteenth of a source pixel. "bilinear" and
    "bicubic" are Pillow's, which widen the kernel when they shrink, as torchvision does for PIL
    images.

    Raises InvalidInput for an image so long and thin that it would not fit in memory once resized.
    """
    image = with_channels(image, eval_transform.channels)
    return _transformed(image, (image.shape[0], image.shape[1]), eval_transform)


def _transformed(image: Pixels, sent: tuple[int, int], eval_transform: EvalTransform) -> Pixels:
    """`transform` of an image whose size was `sent` (height, width) before it was reduced."""
    target = _target(*sent, eval_transform)
    crop = eval_transform.crop or target
    rows, columns = _shown(target[0], crop[0]), _shown(target[1], crop[1])
    if target == image.shape[:2]:
        image = image[rows.start : rows.stop, columns.start : columns.stop]
    else:
        # Pillow and OpenCV know grey images without a dimension of channels.
        flat = image[:, :, 0] if image.shape[2] == 1 else image
        resized = _resize(flat, target, rows, columns, eval_transform.filter)
        image = resized if resized.ndim == 3 else resized[:, :, np.newaxis]
    if image.shape[:2] != crop:
        return _with_black_edge(image, crop)
    # A view would keep the whole image in memory until its batch has run.
    whole = image if image.base is None else image.base
    return image if getattr(whole, "nbytes", 0) <= _KEPT_WHOLE * image.nbytes else image.copy()


def keeps(height: int, width: int, channels: int, eval_transform: EvalTransform) -> bool:
    """Whether images of this size and so many channels are what the network sees already."""
    size = (height, width)
    return (
        channels == eval_transform.channels
        and _resized(*size, eval_transform.resize) == size
        and eval_transform.crop in (None, size)
    )


def _target(height: int, width: int, eval_transform: EvalTransform) -> tuple[int, int]:
    """The (height, width) to which an image is resized. Raises InvalidInput where that is huge."""
    target = _resized(height, width, eval_transform.resize)
    if target[0] * target[1] > DEFAULT_MAX_PIXELS:
        raise InvalidInput(
            f"image is too long and thin: {width}x{height} becomes {target[1]}x{target[0]} when "
            f"resized, the limit is {DEFAULT_MAX_PIXELS} pixels"
        )
    return target


def _resized(height: int, width: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(resize, int):
        return resize
    if height <= width:
        return resize, max(1, round(width * resize / height))
    return max(1, round(height * resize / width)), resize


class _Span(NamedTuple):
    """The pixels from `start` up to, but without, `stop` of one axis."""

    start: int
    stop: int


def _shown(length: int, crop: int) -> _Span:
    """The part of an axis that a crop from the centre keeps."""
    start = max(0, (length - crop) // 2)
    return _Span(start, min(length, start + crop))


def _resize(
    image: Pixels, target: tuple[int, int], rows: _Span, columns: _Span, filter_name: str
) -> Pixels:
    """Resizes to `target` (height, width) and returns `rows` and `columns` of the result, without
    computing the rest."""
    if filter_name != "area":
        scales = image.shape[1] / target[1], image.shape[0] / target[0]
        box = (
            columns.start * scales[0],
            rows.start * scales[1],
            columns.stop * scales[0],
            rows.stop * scales[1],
        )
        size = (columns.stop - columns.start, rows.stop - rows.start)
        method = _PILLOW_FILTERS[filter_name]
        return np.asarray(Image.fromarray(image).resize(size, method, box))
    if target[0] > image.shape[0] or target[1] > image.shape[1]:
        whole = cv2.resize(image, target[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(whole[rows.start : rows.stop, columns.start : columns.stop], np.uint8)
    y, source_y = _whole_pixels(rows, target[0], image.shape[0])
    x, source_x = _whole_pixels(columns, target[1], image.shape[1])
    part = cv2.resize(
        image[source_y.start : source_y.stop, source_x.start : source_x.stop],
        (x.stop - x.start, y.stop - y.start),
        interpolation=cv2.INTER_AREA,
    )
    top, left = rows.start - y.start, columns.start - x.start
    shown = part[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]
    return np.asarray(shown, np.uint8)


def _whole_pixels(shown: _Span, target: int, source: int) -> tuple[_Span, _Span]:
    """Widens the visible span of one axis until both ends fall on source pixel borders (within
    _CUT_PIXELS). Resizing only that part then equals cropping the full resize. Returns (target
    span, source span)."""
    scale = source / target

    def off(edge: int) -> float:
        return abs(edge * scale - round(edge * scale))

    first = min(range(shown.start, max(-1, shown.start - _EDGES), -1), key=off)
    last = min(range(shown.stop, min(target + 1, shown.stop + _EDGES)), key=off)
    start = first if off(first) <= _CUT_PIXELS else 0
    stop = last if off(last) <= _CUT_PIXELS else target
    return _Span(start, stop), _Span(round(start * scale), round(stop * scale))


def _with_black_edge(image: Pixels, crop: tuple[int, int]) -> Pixels:
    """The image in the middle of a black one of the crop's size."""
    height, width = image.shape[:2]
    top, left = (crop[0] - height) // 2, (crop[1] - width) // 2
    padded = np.zeros((*crop, image.shape[2]), np.uint8)
    padded[top : top + height, left : left + width] = image
    return padded
