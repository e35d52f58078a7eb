"""The pixels of a mask file, as values, as colours, or as both."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from serving.base.errors import InvalidInput
from serving.base.files import read_file
from serving.base.machine.cpu import core_count
from serving.images.decoding import DEFAULT_MAX_PIXELS
from serving.images.metadata import pixels_only

# Endings of masks by preference, where a name comes twice. Photographs of cars (Carvana) have
# theirs in GIF, scanners and satellites in TIFF.
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jpg", ".jpeg")
# The value of the foreground in masks that hold only black and white.
WHITE = 255

_FORMATS = ("PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG")
# Bytes of a file that are read, at most: more than the largest image takes uncompressed.
_FILE_BYTES = 256 << 20
# Masks that threads read before their values are checked. More keep the threads busier, fewer stop
# sooner after a mask with another value.
_BLOCK = 64
# A PNG's header: bits of a channel and kind of colour, and the kind that is grey.
_PNG_DEPTH, _PNG_KIND, _PNG_GREY = 24, 25, 0


class MaskPixels(NamedTuple):
    """What a mask file holds.

    values: uint8 or uint16 [H, W]; None for an image in colours.
    colours: uint8 [H, W, 3], RGB; None for a grey or palette image. Grey pixels in an RGB file are
        given as values too.
    palette: uint8 [256, 3]: the colour of each value of a palette image.
    """

    values: NDArray[np.uint8] | NDArray[np.uint16] | None
    colours: NDArray[np.uint8] | None = None
    palette: NDArray[np.uint8] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        held = self.values if self.values is not None else self.colours
        return (0, 0) if held is None else (held.shape[0], held.shape[1])


def read_mask(path: Path) -> MaskPixels:
    """The pixels of a mask: values of 1 to 16 bits as the file holds them, or colours.

    Raises InvalidInput where it cannot be decoded, is too large, or holds something else.
    """
    try:
        data = read_file(path, _FILE_BYTES)
        with Image.open(io.BytesIO(pixels_only(data)), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > DEFAULT_MAX_PIXELS:
                raise InvalidInput(
                    f"mask {path}: {width}x{height} is more than {DEFAULT_MAX_PIXELS} pixels"
                )
            found = _pixels(image, data)
            mode = image.mode
    except InvalidInput:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image of a known format"
        raise InvalidInput(f"mask {path}: cannot be decoded: {reason}") from error
    except Exception as error:  # Damaged files make Pillow's readers raise almost anything.
        raise InvalidInput(f"mask {path}: cannot be decoded: {error}") from error
    if isinstance(found, str):
        raise InvalidInput(f"mask {path}: {found}")
    if found is None:
        raise InvalidInput(f"mask {path}: expected grey, palette or RGB, got {mode}")
    return found


def _pixels(image: Image.Image, data: bytes) -> MaskPixels | str | None:
    """The pixels, the reason why they are no mask, or None for another mode."""
    match image.mode:
        case "1":
            return MaskPixels(np.array(image, dtype=np.uint8))
        case "L":
            return MaskPixels(_as_stored(np.array(image), data))
        case "LA":
            return MaskPixels(np.array(image)[:, :, 0].copy())
        case "P":
            palette = np.zeros((256, 3), np.uint8)
            held = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
            palette[: len(held)] = held
            return MaskPixels(np.array(image), palette=palette)
        case "I" | "I;16" | "I;16B" | "I;16L":
            values = np.array(image)
            if values.min() < 0 or values.max() > 0xFFFF:
                return f"expected values from 0 to 65535, got {values.min()} to {values.max()}"
            return MaskPixels(values.astype(np.uint16))
        case "RGB" | "RGBA":
            return _in_colours(np.array(image))
    return None


def _as_stored(values: NDArray[np.uint8], data: bytes) -> NDArray[np.uint8]:
    """Pillow spreads the values of a grey PNG of 2 or 4 bits over 0 to 255; undone."""
    depth = data[_PNG_DEPTH]
    if data.startswith(b"\x89PNG") and data[_PNG_KIND] == _PNG_GREY and depth in (2, 4):
        return values // np.uint8(255 // ((1 << depth) - 1))
    return values


def _in_colours(pixels: NDArray[np.uint8]) -> MaskPixels | str:
    colours = pixels[:, :, :3]
    if pixels.shape[2] == 4 and np.ptp(pixels[:, :, 3]) and not np.ptp(colours, axis=(0, 1)).any():
        return "has one colour; its shape is in the transparency: save that as a grey image"
    red = colours[:, :, 0]
    grey = bool((red == colours[:, :, 1]).all() and (red == colours[:, :, 2]).all())
    return MaskPixels(red.copy() if grey else None, colours=colours)


def are_black_and_white(masks: Sequence[Path]) -> bool:
    """Whether masks hold only 0 and WHITE, and WHITE at least once. Masks that cannot be read do
    not count."""
    white = False
    with ThreadPoolExecutor(core_count()) as threads:
        for start in range(0, len(masks), _BLOCK):
            for values in threads.map(_values, masks[start : start + _BLOCK]):
                if not values <= {0, WHITE}:
                    return False
                white = white or WHITE in values
    return white


def _values(mask: Path) -> set[int]:
    """The values of a mask; -1 for one in colours."""
    try:
        values = read_mask(mask).values
    except InvalidInput:
        return set()
    if values is None:
        return {-1}
    return set(np.flatnonzero(np.bincount(values.ravel())).tolist())
