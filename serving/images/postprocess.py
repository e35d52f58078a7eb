"""Turns a network's outputs into labels, masks and pictures. Pure functions on numpy arrays."""

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.unsignedinteger[Any]]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores in [0, 1] that sum to 1 along the last axis; float32 in, float32 out."""
    shifted = np.exp(logits - np.maximum.reduce(logits, axis=-1, keepdims=True))
    scores: NDArray[np.float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def top_k(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.intp]:
    """Indices of the k >= 1 largest of a vector, best first; equal scores by index, NaN last."""
    falling = -scores
    if k >= scores.size:
        return falling.argsort(kind="stable")
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


def run_lengths(mask: Mask) -> NDArray[np.uint32]:
    """Run-length encoding of a class map, row-major: uint32 [class, length, class, length, ...]."""
    flat = mask.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(np.append(starts, flat.size))
    return np.stack([flat[starts].astype(np.uint32), lengths.astype(np.uint32)], axis=1).reshape(-1)


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


def palette_png(mask: NDArray[np.uint8]) -> bytes:
    """An 8-bit palette PNG whose pixel values are the class indices of uint8 [H, W]."""
    image = Image.fromarray(mask)
    image.putpalette(palette(256).tobytes())
    return _png(image)


def overlay_png(image: NDArray[np.uint8], mask: Mask, opacity: float = 0.5) -> bytes:
    """A PNG of an image, uint8 HWC RGB, under the colours of a mask [H, W]. Class 0 stays as it is,
    and each region gets a thin outline.

    opacity: the share of the class's colour, 0 to 1.
    """
    colours = palette(max(256, int(mask.max()) + 1))[mask]
    shown = mask > 0
    blended = image.copy()
    mixed = image[shown] * (1 - opacity) + colours[shown] * opacity
    blended[shown] = mixed.astype(np.uint8)
    labels = mask.astype(np.uint16)
    edge = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    outlined = edge & shown
    blended[outlined] = colours[outlined]
    return _png(Image.fromarray(blended))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Class maps at level 1 take a third of the default's time and some 10 % more bytes.
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def class_areas(mask: Mask, confidence: NDArray[np.uint8]) -> list[tuple[int, float, float]]:
    """(class index, share of the pixels, mean confidence in [0, 1]) of each class in a mask [H, W],
    largest first.

    confidence: 255 × the winning probability, [H, W].
    """
    classes, counts = np.unique(mask, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        (
            int(classes[i]),
            float(counts[i] / mask.size),
            float(confidence[mask == classes[i]].mean() / 255),
        )
        for i in order
    ]
