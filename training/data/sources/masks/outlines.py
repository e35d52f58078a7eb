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
# How far outside its image a point may lie, in sides of the image. Outlines that were cut from a
# larger picture reach out of theirs; the rasteriser's memory grows with their length.
_FARTHEST = 4

# Run lengths of an area, column by column from background: a few numbers a column instead of a byte
# a pixel.
Area = list[int]
Size = tuple[int, int]


def check_size(size: Size) -> None:
    """Raises DataError for a (height, width) that no image has."""
    height, width = size
    if height < 1 or width < 1 or height * width > DEFAULT_MAX_PIXELS:
        raise DataError(f"an image of {width}x{height}; expected 1 to {DEFAULT_MAX_PIXELS} pixels")


def points_of(told: object, size: Size, fewest: int = 1) -> NDArray[np.float64]:
    """Points (x, y) of an outline in an image of `size`, float64 [N, 2], from pairs or a flat list
    of numbers. Raises DataError for what is no such list, and for points far outside."""
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
    return points


def polygons(told: Sequence[object], size: Size) -> Area:
    """The area within any of COCO's polygons, flat lists x, y, x, y, ...; those of less than three
    points have none."""
    found = [points_of(one, size) for one in told]
    flat = [points.reshape(-1).tolist() for points in found if len(points) >= 3]
    if not flat:
        return [size[0] * size[1]]
    return _uncompressed(coco.merge(coco.frPyObjects(flat, *size))["counts"].decode())


def run_lengths(counts: object, size: Size) -> Area:
    """The area of COCO's run lengths, a list or its compressed text. Raises DataError where they do
    not add up to the image."""
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise DataError(f"counts: expected run lengths, got {quoted(counts)}")
    if min(counts, default=-1) < 0 or sum(counts) != size[0] * size[1]:
        raise DataError(
            f"counts: run lengths of {sum(counts)} pixels for an image of {size[1]}x{size[0]}"
        )
    return counts


def pixel_count(area: Area) -> int:
    """Pixels of an area."""
    return sum(area[1::2])


def pixels_of(area: Area, size: Size) -> NDArray[np.bool_]:
    """An area as bool [H, W]."""
    inside = np.arange(len(area)) % 2 == 1
    return np.repeat(inside, area).reshape(size[::-1]).T


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
