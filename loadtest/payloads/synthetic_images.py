"""Synthetic images. In a file of their own so that workers do not import OpenCV."""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from loadtest.payloads.content import MADE_UP, Payload, grouped


def synthetic_images(
    sizes: Sequence[tuple[int, int]], per_request: int, seed: int
) -> list[Payload]:
    """JPEGs of the sizes (width, height), about as hard to compress as photographs."""
    random = np.random.default_rng(seed)
    images = []
    for width, height in itertools.islice(itertools.cycle(sizes), max(MADE_UP, len(sizes))):
        coarse = random.integers(0, 256, (max(height // 16, 2), max(width // 16, 2), 3))
        pixels = cv2.resize(coarse.astype(np.float32), (width, height))
        noisy = pixels + random.normal(0, 8, pixels.shape)
        _, content = cv2.imencode(".jpg", np.clip(noisy, 0, 255).astype(np.uint8))
        images.append((content.tobytes(), ""))
    return grouped(images, per_request)
