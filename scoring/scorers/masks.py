"""Masks as files."""

import io

import numpy as np
from PIL import Image

from serving.images.postprocess import Mask, palette_png

# Classes of a palette PNG; with more, a mask is a 16-bit PNG.
PALETTE_CLASSES = 256


def mask_png(mask: Mask, classes: int) -> bytes:
    """A PNG whose pixels are the class indices of [H, W]: 8 bits with a palette, or 16 bits grey
    where the model has more classes than that."""
    if classes <= PALETTE_CLASSES:
        return palette_png(mask.astype(np.uint8))
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint16)).save(file, format="PNG", compress_level=1)
    return file.getvalue()
