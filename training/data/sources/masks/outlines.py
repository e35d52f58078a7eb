"""Areas from polygons and run lengths, whose numbers are checked before anything is drawn."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from serving.base.errors import quoted
from serving.images.decoding import DEFAULT_MAX_PIXELS
from training.errors import DataError

# Points of one polygon. People click some hundred, programs trace some thousand; more take time.
MOST_POINTS = 200_000
# Pixels along one outline, to and fro. pycocotools takes 40 bytes for each.
_MOST_LENGTH = 2_000_000
# Points, runs and pixels along the outlines of one image: some 10 to 40 bytes each while an area is
# made, and up to half a microsecond. A crowded picture of LVIS has half a million.
_MOST_STEPS = 10_000_000
# Pixels of one image that are painted, the same ones again and again: seconds.
_MOST_PAINTED = 1 << 32
# Areas that are joined in one go. The time of joining grows with their square.
_JOINED = 16
# How far outside its image a point may lie, in sides of the image. Outlines that were cut from a
# larger picture reach out of theirs; the rasteriser's memory grows with their length.
_FARTHEST = 4

# Run lengths of an area, column by column from background: a few numbers a column instead of a byte
# a pixel.
Area = NDArray[np.int64]
Size = tuple[int, int]


class Effort:
    """The work that the outlines of one image may still ask for."""

    def __init__(self) -> None:
        self._steps = _MOST_STEPS
        self._pixels = _MOST_PAINTED

    def spend(self, steps: int, pixels: int = 0) -> None:
        """Raises DataError where so many points, runs and pixels along outlines, or so many painted
        pixels, are too much beside those before."""
        self._steps -= steps
        self._pixels -= pixels
        if self._steps < 0:
            raise DataError(
                f"its outlines have more than {_MOST_STEPS:,} points, runs and pixels along them"
            )
        if self._pixels < 0:
            raise DataError(f"its areas, one on the other, have more than {_MOST_PAINTED:,} pixels")


def check_size(size: Size) -> None:
    """Raises DataError for a (height, width) that no image has."""
    height, width = size
    if height < 1 or width < 1 or height * width > DEFAULT_MAX_PIXELS:
        raise DataError(f"an image of {width}x{height}; expected 1 to {DEFAULT_MAX_PIXELS} pixels")


def points_of(told: object, size: Size, effort: Effort, fewest: int = 1) -> NDArray[np.float64]:
    """Points (x, y) of an outline in an image of `size`, float64 [N, 2], from pairs or a flat list
    of numbers. Raises DataError for what is no such list, for points far outside, and where the
    outline is too long."""
    try:
        points = np.array(told, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"expected points x, y, got {quoted(told)}") from error
    if not fewest <= len(points) <= MOST_POINTS:
        raise DataError(f"expected {fewest} to {MOST_POINTS} points, got {len(points)}")
    far = _FARTHEST * max(size)
    strange = ~np.isfinite(points) | (np.abs(points) > far)
    if strange.any():
        value = points[strange][0]
        raise DataError(
            f"the point at {value:g} is "
            + ("no number" if math.isnan(value) else f"far outside the image {size[1]}x{size[0]}")
        )
    length = np.abs(np.diff(points, axis=0)).max(axis=1, initial=0).sum()
    if length > _MOST_LENGTH:
        raise DataError(f"an outline of {length:.0f} pixels, at most {_MOST_LENGTH} are drawn")
    effort.spend(len(points) + int(length))
    return points


def polygons(told: Sequence[object], size: Size, effort: Effort) -> Area:
    """The area within any of COCO's polygons, flat lists x, y, x, y, ...; those of less than three
    points have none."""
    found = [points_of(one, size, effort) for one in told]
    flat = [points.reshape(-1).tolist() for points in found if len(points) >= 3]
    if not flat:
        return np.array([size[0] * size[1]], np.int64)
    parts = coco.frPyObjects(flat, *size)
    while len(parts) > 1:
        parts = [coco.merge(parts[i : i + _JOINED]) for i in range(0, len(parts), _JOINED)]
    text = parts[0]["counts"].decode()
    effort.spend(len(text))
    return np.array(_uncompressed(text), np.int64)


def run_lengths(counts: object, size: Size, effort: Effort) -> Area:
    """The area of COCO's run lengths, a list or its compressed text. Raises DataError where they do
    not add up to the image."""
    if isinstance(counts, str | list):
        effort.spend(len(counts))
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise DataError(f"counts: expected run lengths, got {quoted(counts)}")
    if min(counts, default=-1) < 0 or sum(counts) != size[0] * size[1]:
        raise DataError(
            f"counts: run lengths of {sum(counts)} pixels for an image of {size[1]}x{size[0]}"
        )
    return np.array(counts, np.int64)


def pixel_count(area: Area) -> int:
    """Pixels of an area."""
    return int(area[1::2].sum())


def paint(columns: NDArray[np.int16], area: Area, value: int, effort: Effort) -> None:
    """Sets the pixels of an area in an image of [W, H]: the columns of it. Raises DataError."""
    effort.spend(0, pixel_count(area))
    flat = columns.reshape(-1)
    ends = np.cumsum(area)
    for start, end in zip(ends[0::2].tolist(), ends[1::2].tolist(), strict=False):
        flat[start:end] = value


def _uncompressed(text: str) -> list[int]:
    """COCO's text of run lengths: 5 bits a character and a sixth that says that more follow, the
    least first, signed; from the third on as differences to the one before the last."""
    counts: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            code = ord(text[position]) - 48 if position < len(text) else -1
            if not 0 <= code < 64 or shift > 60:
                raise DataError(f"counts: not COCO's text of run lengths, at character {position}")
            value |= (code & 31) << shift
            more = bool(code & 32)
            position += 1
            shift += 5
            if not more and code & 16:
                value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
