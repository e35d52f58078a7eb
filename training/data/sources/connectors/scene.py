"""Images of connectors, put together from a seed."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from training.data.sources.connectors.camera import photograph
from training.data.sources.connectors.canvas import Canvas
from training.data.sources.connectors.clutter import draw_clutter, occlude
from training.data.sources.connectors.connector import draw_connector, draw_lead, place
from training.data.sources.connectors.shapes import unit
from training.data.sources.connectors.surfaces import random_surface


def render(seed: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One image uint8 [size, size, 3], RGB, and its mask uint8 [size, size] of indices in CLASSES.

    One to three connectors lie in any pose on a random surface, under uneven light, sometimes
    partly behind a cable, a finger or a slip of paper, and seen through a camera with blur, noise
    and JPEG artefacts. Objects that cover a connector are background in the mask. The same
    arguments give the same arrays. Raises ValueError where `size` is below 32, at which contacts
    vanish.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32, got {size}")
    rng = np.random.default_rng(seed)
    surface = np.clip(random_surface(rng, size), 0, 255).astype(np.uint8)
    canvas = Canvas(surface)
    light = unit(rng.uniform(0, 2 * np.pi))
    connectors = place(rng, size)
    if rng.random() < 0.5:
        draw_clutter(rng, canvas, light)
    # All cables before all connectors, so that no cable covers labelled pixels.
    for connector in connectors:
        if connector.moulding:
            draw_lead(rng, canvas, connector)
    for connector in connectors:
        draw_connector(rng, canvas, connector, light)
    if rng.random() < 0.45:
        occlude(rng, canvas, light)
    image, mask = canvas.downsample()
    return photograph(rng, image, mask, light), mask


def render_many(seeds: Iterable[int], size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """`render` of every seed: images uint8 [N, size, size, 3] and masks uint8 [N, size, size]."""
    images, masks = zip(*(render(seed, size) for seed in seeds), strict=True)
    return np.stack(images), np.stack(masks)
