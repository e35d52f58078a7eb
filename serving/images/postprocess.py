"""Turns a network's outputs into labels, masks and pictures. Pure functions on numpy arrays."""

import io
import math
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.base.errors import AnswerTooLarge

Mask = NDArray[np.unsignedinteger[Any]]

# Pixels that are worked on at a time. More need more memory and keep the GIL for longer, fewer cost
# more calls.
BAND_PIXELS = 1 << 16
# Bytes of a pixel in one band: of an overlay's colours and edges, of the runs and their encoding.
_BAND = 64
# Bytes of the length in a run of one pixel, beside its class.
_RUN = 2
# Bytes of a PNG for each byte of its pixels, at most, for stored blocks; of its head and palette.
_PNG_GROWTH = 1.01
_PNG_HEAD = 2048
# Scores of an image that are all sorted. More cost more than finding the best first, fewer cost a
# step for each image.
_SORTED = 64


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores in [0, 1] that sum to 1 along the last axis; float32 in, float32 out."""
    shifted = np.exp(logits - np.maximum.reduce(logits, axis=-1, keepdims=True))
    scores: NDArray[np.float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def top_k(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.intp]:
    """Indices of the k >= 1 largest of a vector, or of each row of [N, C], best first; equal scores
    by index, NaN last."""
    falling = -scores
    classes = scores.shape[-1]
    if k >= classes or classes <= _SORTED:
        return falling.argsort(axis=-1, kind="stable")[..., :k]
    if scores.ndim > 1:
        return np.stack([top_k(row, k) for row in scores])
    # Partitioning 1,000 scores takes a tenth of the time of sorting them.
    bound = np.partition(falling, k - 1)[k - 1]
    candidates = np.flatnonzero(~(falling > bound))
    best: NDArray[np.intp] = candidates[falling[candidates].argsort(kind="stable")[:k]]
    return best


def binary_mask(probability: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The class map and the confidence of a binary task; uint8, of the shape of `probability`.

    probability: 255 × the probability of class 1, which wins above one half.
    confidence: 255 × the probability of the winner.
    """
    return (probability > 127).astype(np.uint8), np.maximum(probability, 255 - probability)


def resize_mask(mask: Mask, height: int, width: int) -> Mask:
    """Nearest-neighbour resize of a class map to [height, width]; no new class appears."""
    if mask.shape == (height, width):
        return mask
    resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=mask.dtype)


def runs_of(mask: Mask) -> Iterator[NDArray[np.uint32]]:
    """Run-length encoding of a class map, row-major, in pieces: uint32 [class, length, ...]."""
    flat = mask.reshape(-1)
    begin = 0
    for start in range(1, flat.size, BAND_PIXELS):
        end = min(start + BAND_PIXELS, flat.size)
        changes = np.flatnonzero(flat[start:end] != flat[start - 1 : end - 1]) + start
        if changes.size:
            starts = np.concatenate(([begin], changes[:-1]))
            yield _pairs(flat[starts], changes - starts)
            begin = int(changes[-1])
    yield _pairs(flat[begin : begin + 1], np.array([flat.size - begin]))


def _pairs(classes: Mask, lengths: NDArray[np.integer[Any]]) -> NDArray[np.uint32]:
    return np.stack([classes.astype(np.uint32), lengths.astype(np.uint32)], axis=1).reshape(-1)


def palette(classes: int) -> NDArray[np.uint8]:
    """A colour for each class, uint8 [classes, 3] RGB. Class 0 is black; the others are a golden
    angle of hue apart, so that neighbours in the list look different."""
    hues = (np.arange(classes) * 137.508) % 360 / 2
    value = np.where(np.arange(classes) % 3 == 2, 180, 235)
    hsv = np.stack([hues, np.full(classes, 190), value], axis=1).astype(np.uint8)
    rgb = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)
    colours: NDArray[np.uint8] = np.asarray(rgb[0], dtype=np.uint8)
    colours[:1] = 0
    return colours


def palette_png(mask: NDArray[np.uint8], most: float = math.inf) -> bytes:
    """An 8-bit palette PNG whose pixel values are the class indices of uint8 [H, W]. Raises
    AnswerTooLarge past `most` bytes."""
    image = Image.fromarray(mask)
    image.putpalette(palette(256).tobytes())
    return _png(image, most)


def overlay_png(image: NDArray[np.uint8], mask: Mask, most: float = math.inf) -> bytes:
    """A PNG of an image, uint8 HWC RGB, under the colours of a mask [H, W], half of each. Class 0
    stays as it is, and each region gets a thin outline. Raises AnswerTooLarge past `most` bytes."""
    height, width = mask.shape
    colours = palette(max(256, int(mask.max()) + 1))
    picture = Image.new("RGB", (width, height))
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        # A pixel's edge depends on its neighbours, also on those of the next band.
        first = max(0, top - 1)
        around = mask[first : bottom + 1].astype(np.uint16)
        edge = cv2.morphologyEx(around, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        labels = around[top - first : bottom - first]
        shown = labels > 0
        colour, blended = colours[labels], image[top:bottom].copy()
        # The mean of two bytes, rounded down, without a carry that needs a ninth bit.
        mean = (blended & colour) + ((blended ^ colour) >> 1)
        blended[shown] = mean[shown]
        outlined = edge[top - first : bottom - first] & shown
        blended[outlined] = colour[outlined]
        picture.paste(Image.fromarray(blended), (0, top))
    return _png(picture, most)


def mask_bytes(height: int, width: int, item_size: int, most: int) -> int:
    """Bytes that a mask takes at most while it is resized to height x width and encoded in any form
    of `most` bytes at most: the mask, its copy, the form twice, and one band."""
    pixels = height * width
    form = min(most, pixels * (_RUN + item_size) + _PNG_HEAD)
    return pixels * 2 * item_size + 2 * form + _band_bytes(height, width)


def overlay_bytes(height: int, width: int, item_size: int, most: int) -> int:
    """Bytes that `overlay_png` takes at most beside its image: the mask, Pillow's image, the file
    twice, and one band."""
    pixels = height * width
    file = min(most, round(pixels * 3 * _PNG_GROWTH) + height + _PNG_HEAD)
    return pixels * (item_size + 4) + 2 * file + _band_bytes(height, width)


def _band_bytes(height: int, width: int) -> int:
    return min(height * width, max(width, BAND_PIXELS)) * _BAND


class _Bounded(io.BytesIO):
    """A file in memory of at most `most` bytes."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any, /) -> int:
        """Raises AnswerTooLarge where the file would become too long."""
        if self.tell() + len(data) > self._most:
            raise AnswerTooLarge(f"the answer is too large: a picture has over {self._most} bytes")
        return super().write(data)


def _png(image: Image.Image, most: float) -> bytes:
    file = _Bounded(most)
    # Class maps at level 1 take a third of the default's time and some 10 % more bytes.
    image.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def class_areas(mask: Mask, confidence: NDArray[np.uint8]) -> list[tuple[int, float, float]]:
    """(class index, share of the pixels, mean confidence in [0, 1]) of each class in a mask [H, W],
    largest first.

    confidence: 255 × the winning probability, [H, W].
    """
    flat = mask.reshape(-1)
    counts = np.bincount(flat)
    sums = np.bincount(flat, confidence.reshape(-1))
    classes = np.flatnonzero(counts)
    order = classes[np.argsort(-counts[classes], kind="stable")]
    return [(int(i), float(counts[i] / mask.size), float(sums[i] / counts[i] / 255)) for i in order]
