"""From a network's outputs to what a person or a program wants. Pure functions on numpy arrays."""

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
    # To find those that may be among them takes a tenth of the time that sorting 1,000 does.
    bound = np.partition(falling, k - 1)[k - 1]
    candidates = np.flatnonzero(~(falling > bound))
    best: NDArray[np.intp] = candidates[falling[candidates].argsort(kind="stable")[:k]]
    return best


def binary_mask(probability: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The class map that a probability map (255 × that of class 1) stands for, and its confidence
    (255 × that of the winner): class 1 from one half on. Any shape."""
    return (probability > 127).astype(np.uint8), np.maximum(probability, 255 - probability)


def resize_mask(mask: Mask, height: int, width: int) -> Mask:
    """Nearest-neighbour resize of a class map [H, W]: no class appears that was not there."""
    if mask.shape == (height, width):
        return mask
    resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=mask.dtype)


def run_lengths(mask: Mask) -> NDArray[np.uint32]:
    """Run-length encoding of a class map, row-major: [class, length, class, length, ...]."""
    flat = mask.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = np.diff(np.append(starts, flat.size))
    return np.stack([flat[starts].astype(np.uint32), lengths.astype(np.uint32)], axis=1).reshape(-1)


def from_run_lengths(runs: NDArray[np.uint32], height: int, width: int) -> NDArray[np.uint16]:
    """The class map [height, width] that `run_lengths` encoded."""
    pairs = np.asarray(runs, dtype=np.uint32).reshape(-1, 2)
    return np.repeat(pairs[:, 0].astype(np.uint16), pairs[:, 1]).reshape(height, width)


def palette(classes: int) -> NDArray[np.uint8]:
    """A colour [classes, 3] (RGB) for each class: 0 is black, the others spread over the hues by
    the golden angle, so that neighbours in the list are far apart in colour."""
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
    """A PNG of uint8 HWC RGB with the classes of a mask [H, W] of equal size drawn over it; class 0
    stays as it is, and each region gets a thin outline."""
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
    # Level 1: a third of the time of the default for some 10 % more bytes on class maps.
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def class_areas(mask: Mask, confidence: NDArray[np.uint8]) -> list[tuple[int, float, float]]:
    """(class index, share of the pixels, mean confidence in [0, 1]) of each class that is in the
    mask [H, W], largest first; `confidence` is 255 x the winning probability, same shape."""
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
