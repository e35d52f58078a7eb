"""The photograph of a scene: uneven light, gleam, blur, noise, JPEG."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.sources.connectors.shapes import unit


def photograph(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    light: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Adds uneven light and a gleam, then blur, sensor noise and JPEG; uint8 [size, size, 3]."""
    size = len(image)
    steps = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    x, y = steps[np.newaxis, :], steps[:, np.newaxis]
    slope = rng.uniform(0.1, 0.5)
    gain = x * np.float32(light[0] * slope) + y * np.float32(light[1] * slope)
    gain += np.float32(rng.uniform(0.8, 1.12))
    gain -= (x * x + y * y) * np.float32(rng.uniform(0, 0.35))
    tint = rng.uniform(0.93, 1.07, 3).astype(np.float32)
    scene = image * (gain[:, :, np.newaxis] * tint)
    if rng.random() < 0.7:
        scene += _gleam(rng, mask, x, y)[:, :, np.newaxis]
    sigma = rng.uniform(0, 0.7)
    if sigma > 0.25:
        scene = cv2.GaussianBlur(scene, (0, 0), sigma).astype(np.float32)
    scene += rng.standard_normal(scene.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
    photo = np.clip(scene, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(55, 96))
        _, encoded = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
        photo = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)
    return photo


def _gleam(
    rng: np.random.Generator,
    mask: NDArray[np.uint8],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
) -> NDArray[np.float32]:
    """A specular streak across the connectors, float32 [size, size] to be added, 0 elsewhere."""
    direction = unit(rng.uniform(0, np.pi))
    along = x * np.float32(direction[0]) + y * np.float32(direction[1])
    distance = (along - np.float32(rng.uniform(-0.3, 0.3))) / np.float32(rng.uniform(0.03, 0.08))
    streak = np.exp(-0.5 * distance * distance) * np.float32(rng.uniform(30, 80))
    return np.asarray(streak * (mask > 0), dtype=np.float32)
