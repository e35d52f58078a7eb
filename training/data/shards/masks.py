"""Masks in shards and behind URLs: PNG files whose values are classes."""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.images.decoding import DEFAULT_MAX_PIXELS
from serving.images.metadata import pixels_only
from training.errors import DataError

# The value of the foreground in masks that hold only black and white.
_WHITE = 255
# As many as a mask of 8 bits holds beside the value that is ignored.
MOST_CLASSES = 255

Pixels = NDArray[np.uint8]
# From a mask's file and its image's (height, width) to the class of each pixel, uint8.
ReadMask = Callable[[bytes, tuple[int, int]], Pixels]


def mask_reader(classes: int, ignore_index: int | None) -> ReadMask:
    """Without `ignore_index` masks are black and white. What it gives raises DataError for a mask
    that cannot be decoded, has another size than its image, or a value that is no class."""
    # The target of each mask value; -1 for values that no mask may hold.
    targets = np.full(256, -1, np.int16)
    if ignore_index is None:
        targets[[0, _WHITE]] = 0, 1
        expected = f"0 and {_WHITE}"
    else:
        targets[:classes] = np.arange(classes)
        targets[ignore_index] = ignore_index
        expected = f"classes 0 to {classes - 1} or {ignore_index} (ignored)"

    def read(data: bytes, size: tuple[int, int]) -> Pixels:
        values = _values(data)
        mask = targets[values]
        if (mask < 0).any():
            strange = np.unique(values[mask < 0])[:5].tolist()
            raise DataError(f"mask: expected {expected}, got {strange}")
        if mask.shape != size:
            raise DataError(
                f"the image is {size[1]}x{size[0]}, its mask {mask.shape[1]}x{mask.shape[0]}"
            )
        return mask.astype(np.uint8)

    return read


def _values(data: bytes) -> Pixels:
    try:
        with Image.open(io.BytesIO(pixels_only(data)), formats=("PNG",)) as image:
            width, height = image.size
            if width * height > DEFAULT_MAX_PIXELS:
                raise DataError(f"mask: {width}x{height} is more than {DEFAULT_MAX_PIXELS} pixels")
            if image.mode in ("1", "L", "P"):
                return np.array(image, dtype=np.uint8)
            mode = image.mode
    except DataError:
        raise
    except Exception as error:  # Damaged files make Pillow's readers raise almost anything.
        raise DataError(f"mask: cannot be decoded: {error}") from error
    raise DataError(f"mask: expected an 8-bit grey or palette PNG, got {mode}")
