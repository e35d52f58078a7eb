"""Folders of images with one mask each: images/NAME.jpg, masks/NAME.png, and classes.txt.

Training and `convserve evaluate` read such folders with these functions.
"""

import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from serving.base.errors import InvalidInput
from serving.base.folders import list_images
from serving.base.machine.cpu import core_count
from serving.base.text import NotText, lines_of, read_utf8
from serving.images.metadata import pixels_only

CLASSES_FILE = "classes.txt"
# The value of the foreground in masks that hold only black and white.
WHITE = 255

_MASK_SUFFIXES = (".png", ".PNG")
# Masks that threads read before their values are checked. More keep the threads busier, fewer stop
# sooner after a mask with another value.
_BLOCK = 64


@dataclass(frozen=True)
class MaskedImage:
    """An image file and the file of its mask."""

    path: Path
    mask: Path


class MaskedListing(NamedTuple):
    """A folder of images with masks.

    pairs: images with their masks, sorted by the image's path.
    left_out: number of other files in images/, by their ending.
    """

    pairs: list[MaskedImage]
    left_out: Counter[str]


def list_masked_images(folder: Path) -> MaskedListing:
    """Every image below folder/images with its mask, a PNG of the same name and place below
    folder/masks.

    Raises InvalidInput where one of the two folders or a mask is missing.
    """
    images, masks = folder / "images", folder / "masks"
    for path in (images, masks):
        if not path.is_dir():
            raise InvalidInput(f"{path}: no such folder; expected images/ and masks/ in {folder}")
    found = list_images(images)
    pairs = [MaskedImage(file, _mask_of(file, images, masks)) for file in found.images]
    missing = [
        pair.path.relative_to(images).as_posix() for pair in pairs if not pair.mask.is_file()
    ]
    if missing:
        raise InvalidInput(
            f"{masks}: no mask for {', '.join(missing[:10])} ({len(missing)} in all); "
            "expected NAME.png at the place of images/NAME.*"
        )
    return MaskedListing(pairs, found.left_out)


def _mask_of(file: Path, images: Path, masks: Path) -> Path:
    candidates = [(masks / file.relative_to(images)).with_suffix(end) for end in _MASK_SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])


def read_classes(file: Path) -> list[str]:
    """The classes that a file names, one a line, without the white space around them. A mask's
    value is the number of a line, from 0. Empty lines at the end do not count.

    Raises InvalidInput naming the file, and the line that is empty, that repeats a name or that is
    not UTF-8.
    """
    try:
        names = [line.strip() for line in lines_of(read_utf8(file).rstrip())]
    except NotText as error:
        raise InvalidInput(str(error)) from error
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}; expected one class a line") from error
    if not names:
        raise InvalidInput(f"{file}: empty; expected one class a line")
    first_lines: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise InvalidInput(
                f"{file}: line {number}: empty; expected a class, since the masks' values are "
                "line numbers"
            )
        if name in first_lines:
            raise InvalidInput(f"{file}: line {number}: {name!r} is line {first_lines[name]} too")
        first_lines[name] = number
    return names


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The values of a mask file, uint8 [H, W]; 0 and 1 for a 1-bit file.

    Raises InvalidInput where it cannot be decoded, or is no 8-bit greyscale, palette or 1-bit
    image.
    """
    try:
        with Image.open(io.BytesIO(pixels_only(path.read_bytes()))) as image:
            if image.mode in ("1", "L", "P"):
                return np.array(image, dtype=np.uint8)
            mode = image.mode
    except UnidentifiedImageError as error:
        reason = "not an image of a known format"
        raise InvalidInput(f"mask {path}: cannot be decoded: {reason}") from error
    except Exception as error:  # Damaged files make Pillow's readers raise almost anything.
        raise InvalidInput(f"mask {path}: cannot be decoded: {error}") from error
    raise InvalidInput(f"mask {path}: expected 8-bit greyscale or palette, got {mode}")


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
    try:
        return set(np.flatnonzero(np.bincount(read_mask(mask).ravel())).tolist())
    except InvalidInput:
        return set()
