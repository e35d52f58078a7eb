"""From the pixels of a mask to classes."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from serving.base.errors import InvalidInput
from serving.images.masks.files import MaskPixels, read_mask

# In place of a class: pixels that count nowhere, and pixels of a value that nobody named.
IGNORED, UNNAMED = -1, -2

# Pixels whose colours are looked up at a time. More take more memory, 12 bytes each.
_BAND = 1 << 20
# Values or colours without a name that a message lists.
_LISTED = 5
MORE = "..."
# Part by which height over width of a mask may differ from its image's. A mask of a tenth of the
# size is rounded by so much; larger would take masks that are cut or turned.
_SHAPE = 0.01

ClassMap = NDArray[np.int16]


@dataclass(frozen=True)
class MaskRule:
    """The class of each value and colour.

    values: int16 [65536]: class, IGNORED or UNNAMED of each value.
    keys: uint32 [K], ascending: colours as 0xRRGGBB; empty where no colour has a name.
    key_classes: int16 [K]: their classes, or IGNORED.
    palette_colours: whether palette images are read by their colours.
    tolerance: largest distance of a colour from a named one, in each channel.
    expected: the values that masks may hold, for messages.
    hint: the end of a message on other values.
    note: how the masks were understood where nothing said it.
    source: file or key that names the classes, for messages.
    ignore_index: the value that stands for IGNORED in a class map of 8 bits; None where no pixel is
        ignored.
    """

    classes: tuple[str, ...]
    values: ClassMap
    keys: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    key_classes: ClassMap = field(default_factory=lambda: np.zeros(0, np.int16))
    palette_colours: bool = False
    tolerance: int = 0
    expected: str = ""
    hint: str = ""
    note: str = ""
    source: str = "classes"
    ignore_index: int | None = 255

    def read(self, file: Path) -> tuple[ClassMap, list[str]]:
        """The class, IGNORED or UNNAMED of each pixel of a mask file, int16 [H, W], and the values
        or colours that nobody named, a few of them. Raises InvalidInput as read_mask does, and for
        a mask in colours where no colour has a name."""
        pixels = read_mask(file)
        if pixels.values is None and not len(self.keys):
            raise InvalidInput(
                f"mask {file}: is in colours, and nothing names them; expected grey or palette, or "
                "a table of names and colours"
            )
        found = self._classes_of(pixels)
        unnamed = found == UNNAMED
        return found, self._told(pixels, unnamed) if unnamed.any() else []

    def _classes_of(self, pixels: MaskPixels) -> ClassMap:
        if pixels.palette is not None and pixels.values is not None and self.palette_colours:
            by_value = self._of_colours(pixels.palette[np.newaxis])[0]
            return np.asarray(by_value[pixels.values], dtype=np.int16)
        if pixels.colours is not None and len(self.keys):
            return self._of_colours(pixels.colours)
        return np.asarray(self.values[pixels.values], dtype=np.int16)

    def _of_colours(self, colours: NDArray[np.uint8]) -> ClassMap:
        found = np.empty(colours.shape[:2], np.int16)
        rows = max(1, _BAND // max(1, colours.shape[1]))
        for start in range(0, len(colours), rows):
            packed = _packed(colours[start : start + rows])
            places = np.minimum(np.searchsorted(self.keys, packed), len(self.keys) - 1)
            classes = self.key_classes[places]
            classes[self.keys[places] != packed] = UNNAMED
            if self.tolerance and (classes == UNNAMED).any():
                others, inverse = np.unique(packed[classes == UNNAMED], return_inverse=True)
                classes[classes == UNNAMED] = self._nearest(others)[inverse]
            found[start : start + rows] = classes
        return found

    def _nearest(self, packed: NDArray[np.uint32]) -> ClassMap:
        """The class of the nearest named colour of each, UNNAMED where it is too far."""
        named = _unpacked(self.keys)
        found = np.full(len(packed), UNNAMED, np.int16)
        rows = max(1, _BAND // len(named))
        for start in range(0, len(packed), rows):
            some = _unpacked(packed[start : start + rows])
            away = np.abs(some[:, np.newaxis] - named).max(axis=2)
            nearest = away.argmin(axis=1)
            near = away[np.arange(len(some)), nearest] <= self.tolerance
            found[start : start + rows][near] = self.key_classes[nearest[near]]
        return found

    def _told(self, pixels: MaskPixels, unnamed: NDArray[np.bool_]) -> list[str]:
        by_colour = pixels.colours is not None and len(self.keys)
        if by_colour and pixels.colours is not None:
            strange = np.unique(_packed(pixels.colours[unnamed][np.newaxis]))
            told = [str(tuple(colour)) for colour in _unpacked(strange[:_LISTED]).tolist()]
        else:
            assert pixels.values is not None
            strange = np.unique(pixels.values[unnamed])
            told = [str(value) for value in strange[:_LISTED].tolist()]
            if pixels.palette is not None and self.palette_colours:
                told = [str(tuple(pixels.palette[value].tolist())) for value in strange[:_LISTED]]
        return told + ([MORE] if len(strange) > _LISTED else [])


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """0xRRGGBB of colours [..., 3]."""
    wide = colours.astype(np.uint32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], dtype=np.uint32)


def _unpacked(packed: NDArray[np.uint32]) -> NDArray[np.int16]:
    """Colours int16 [N, 3]."""
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.int16)


def scaled(mask: ClassMap, size: tuple[int, int]) -> ClassMap:
    """A class map at its image's (height, width), by nearest neighbour. Raises InvalidInput where
    it has another shape: height over width differs by more than 1 %."""
    height, width = mask.shape
    if (height, width) == size:
        return mask
    if abs(height * size[1] - width * size[0]) > _SHAPE * width * size[0]:
        raise InvalidInput(
            f"the image is {size[1]}x{size[0]}, its mask {width}x{height}; expected the same size, "
            "or one of the same shape"
        )
    return np.asarray(
        cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.int16
    )
