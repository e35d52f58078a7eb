"""The structure of a JPEG before its pixels: segments, frame and scans (ITU-T T.81, annex B)."""

import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

from serving.base.errors import InvalidInput

START = b"\xff\xd8"
APP1 = 0xE1

_END, _SCAN = b"\xff\xd9", b"\xff\xda"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Markers that no length follows: stuffing, TEM and RST0 to RST7 (T.81, B.1.1.3).
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xD8)))
# Frame headers: SOF0 to SOF15, without DHT, JPG and DAC, which stand between them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Those with arithmetic coding, which no common encoder writes: decoding takes ten times as long.
_ARITHMETIC = frozenset(range(0xC9, 0xD0))
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
# JFIF (APP0) and Adobe's segment (APP14) say which colours the components are.
_COLOURS = frozenset((0xE0, 0xEE))
# The other APP segments, and comments.
_TEXTS = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
# Markers before the first scan, at most. Real files have some dozens. Larger lets a hostile file of
# 4-byte segments take more time, smaller might refuse a file with many comments.
_MOST_MARKERS = 10_000
# Bytes of tables before the first scan, at most: quantisation, Huffman, restart interval. Real
# files have 3 KB. Pillow reads tables in Python, 1 MiB of them in 0.1 s.
_MOST_TABLES = 1 << 16

_FILL = re.compile(rb"\xff+")
# Bytes of an 8x8 block of coefficients.
_BLOCK = 128


class Segment(NamedTuple):
    """A marker, and where the content behind its length stands: data[begin:end]."""

    marker: int
    begin: int
    end: int


class Frame(NamedTuple):
    """The frame header of a JPEG.

    height, width: pixels.
    coefficients: bytes of the coefficients of the whole image, which a decoder keeps where the
        image comes in several scans; 0 where it comes in one.
    scans: at most, where there are coefficients.
    """

    height: int
    width: int
    coefficients: int
    scans: int = 1


def segments(data: bytes) -> list[Segment]:
    """The segments up to the head of the first scan, which is the last one where there is any.
    Stray bytes before a marker are passed over, as libjpeg does.

    Raises InvalidInput where there are more than _MOST_MARKERS.
    """
    found: list[Segment] = []
    position, size = len(START), len(data)
    for _ in range(_MOST_MARKERS):
        position = data.find(b"\xff", position) + 1
        if not position:
            return found
        if data.startswith(b"\xff", position):
            position = _end_of_fill(data, position)
        if position + 3 > size:
            return found
        marker = data[position]
        position += 1
        if marker in _WITHOUT_LENGTH:
            continue
        end = position + (data[position] << 8) + data[position + 1]
        if end < position + 2 or marker == _END_OF_IMAGE:
            return found
        found.append(Segment(marker, position + 2, end))
        if marker == _START_OF_SCAN:
            return found
        position = end
    raise InvalidInput(
        f"cannot decode image: its pixels do not begin within {_MOST_MARKERS} JPEG markers"
    )


def _end_of_fill(data: bytes, position: int) -> int:
    """The end of a run of 0xff."""
    fill = _FILL.match(data, position)
    return fill.end() if fill else position


def frame_of(data: bytes, parts: Sequence[Segment]) -> Frame | None:
    """The frame header among the segments; None where there is not exactly one, or no scan. Raises
    InvalidInput for one with arithmetic coding."""
    frames = [part for part in parts if part[0] in _FRAMES]
    if len(frames) != 1 or parts[-1].marker != _START_OF_SCAN:
        return None
    marker, begin, end = frames[0]
    if marker in _ARITHMETIC:
        raise InvalidInput("cannot decode image: a JPEG with arithmetic coding is not read")
    scan = parts[-1].begin
    if end - begin < 6 or scan >= len(data):
        return None
    _, height, width, components = struct.unpack_from(">BHHB", data, begin)
    if end - begin != 6 + 3 * components or end > len(data) or not components:
        return None
    scanned = marker in _PROGRESSIVE or data[scan] != components
    if not scanned:
        return Frame(height, width, coefficients=0)
    # A byte each: the number of 8x8 blocks of a component in a unit, across and down.
    sampling = [(max(1, byte >> 4), max(1, byte & 15)) for byte in data[begin + 7 : end : 3]]
    across, down = max(a for a, _ in sampling), max(d for _, d in sampling)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    # Other segments between the scans may hold the same two bytes.
    scans = 1 + data.count(_SCAN, scan)
    return Frame(height, width, units * sum(a * d for a, d in sampling) * _BLOCK, scans)


def has_end(data: bytes, parts: Sequence[Segment]) -> bool:
    """Whether an end marker follows the first scan. Entropy-coded data never contains one."""
    return parts[-1].marker == _START_OF_SCAN and data.rfind(_END, parts[-1].end) >= 0


def pixels_only(data: bytes, parts: Sequence[Segment]) -> bytes:
    """The file without comments, metadata and stray bytes before its first scan: Pillow reads those
    byte by byte.

    Raises InvalidInput where the tables that stay are longer than _MOST_TABLES.
    """
    kept = [part for part in parts if part.marker not in _TEXTS]
    tables = [part for part in kept if part.marker not in _COLOURS]
    if sum(end - begin for _, begin, end in tables) > _MOST_TABLES:
        raise InvalidInput(
            f"cannot decode image: its JPEG tables are longer than {_MOST_TABLES} bytes"
        )
    heads = [b"\xff" + data[part.begin - 3 : part.end] for part in kept]
    return b"".join([START, *heads, data[parts[-1].end :]])
