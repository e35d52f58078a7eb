"""The parts of an image file beside its pixels: orientation (EXIF, XMP), texts, profiles.

The rule for all formats: the first EXIF block with an orientation tag decides; where no block has
one, the tiff:Orientation of the first XMP packet does; otherwise the image is upright. A value
outside 1 to 8 counts as upright. The order of the blocks in the file does not matter.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import ExifTags, Image

UPRIGHT = 1

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_EXIF_HEADER = b"Exif\x00\x00"
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\x00"
_APP1, _START_OF_SCAN, _END_OF_IMAGE = 0xE1, 0xDA, 0xD9
# Markers that no length follows: stuffing, TEM and RST0 to RST7 (ITU-T T.81, B.1.1.3).
_WITHOUT_LENGTH = (0x00, 0x01, *range(0xD0, 0xD8))
# JPEG segments that are read, at most. Real files have some dozens. Larger lets a hostile file of
# 4-byte segments take more time, smaller might miss the orientation.
_MOST_SEGMENTS = 10_000

_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([0-9]+)")
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_RAW_EXIF_KEYWORD = b"Raw profile type exif"
# Bytes of a compressed PNG text that are inflated, at most. Cameras put the orientation into the
# first 10 KB. Larger lets a zip bomb take more memory, smaller might miss the orientation.
_INFLATED_BYTES = 1 << 20
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


class _Block(NamedTuple):
    """One piece of metadata.

    exif: whether it is EXIF; XMP otherwise.
    data: its bytes, without the header that names its kind.
    """

    exif: bool
    data: bytes


def orientation(data: bytes) -> int:
    """The EXIF orientation, 1 to 8, of a JPEG, PNG or WebP file by the rule above; 1 for every
    other file. Damaged metadata is passed over."""
    if data.startswith(_JPEG_START):
        blocks = _of_jpeg(data)
    elif data.startswith(_PNG_START):
        blocks = _of_png(data)
    elif data.startswith(b"RIFF") and data.startswith(b"WEBP", 8):
        blocks = _of_webp(data)
    else:
        return UPRIGHT
    told_by_xmp = None
    for block in blocks:
        if block.exif:
            told = _told_by_exif(block.data)
            if told is not None:
                return _existing(told)
        elif told_by_xmp is None:
            match = _XMP_ORIENTATION.search(block.data)
            told_by_xmp = int(match[1][:4]) if match else None
    return _existing(told_by_xmp)


def jpeg_has_end(data: bytes) -> bool:
    """Whether an end marker follows the first scan of a JPEG. Entropy-coded data never contains
    one."""
    return any(
        marker == _START_OF_SCAN and data.rfind(_JPEG_END, end) >= 0
        for marker, _, end in _segments(data)
    )


def without_texts(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, which Pillow would inflate and refuse past 1 MB;
    any other file, or a PNG that has none of them, as it is."""
    if not data.startswith(_PNG_START):
        return data
    kept = [_PNG_START]
    begin = len(_PNG_START)
    for kind, start, end in _chunks(data):
        if kind in _PNG_TEXTS:
            kept.append(data[begin:start])
            begin = end
    return data if len(kept) == 1 else b"".join([*kept, data[begin:]])


def _existing(value: int | None) -> int:
    return value if value is not None and 1 <= value <= 8 else UPRIGHT


def _told_by_exif(exif: bytes) -> int | None:
    """The orientation tag; None where there is none that can be read."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        told = tags.get(ExifTags.Base.Orientation)
        return None if told is None else int(told)
    except Exception:  # Damaged EXIF makes Pillow's readers raise almost anything.
        return None


def _of_jpeg(data: bytes) -> Iterator[_Block]:
    """The APP1 segments before the first scan that hold EXIF or XMP."""
    for marker, begin, end in _segments(data):
        if marker == _APP1:
            segment = data[begin:end]
            if segment.startswith(_EXIF_HEADER):
                yield _Block(exif=True, data=segment)
            elif segment.startswith(_XMP_HEADER):
                yield _Block(exif=False, data=segment)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of the content of each segment of a JPEG up to the head of its first
    scan. A segment is a marker of two bytes, a length, and the content. Stray bytes
    before a marker are passed over, as libjpeg does."""
    position = len(_JPEG_START)
    for _ in range(_MOST_SEGMENTS):
        position = data.find(b"\xff", position) + 1
        while data[position : position + 1] == b"\xff":  # may be repeated
            position += 1
        if not 0 < position < len(data):
            return
        marker = data[position]
        position += 1
        if marker in _WITHOUT_LENGTH:
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        if end < position + 2 or marker == _END_OF_IMAGE:
            return
        yield marker, position + 2, end
        if marker == _START_OF_SCAN:
            return
        position = end


def _of_png(data: bytes) -> Iterator[_Block]:
    """The eXIf chunk, the XMP text, and the text into which ImageMagick puts EXIF. A file has at
    most one of each: the others are not inflated."""
    seen = set()
    for kind, start, end in _chunks(data):
        if kind == b"eXIf":
            yield _Block(exif=True, data=data[start + 8 : end - 4])
        if kind not in _PNG_TEXTS or kind == b"iCCP":
            continue
        text = data[start + 8 : end - 4] if end - start < _INFLATED_BYTES else b""
        keyword, _, rest = text.partition(b"\x00")
        if keyword not in (_XMP_KEYWORD, _RAW_EXIF_KEYWORD) or keyword in seen:
            continue
        seen.add(keyword)
        value = _text_of(kind, rest)
        if keyword == _XMP_KEYWORD:
            yield _Block(exif=False, data=value)
        else:
            yield _Block(exif=True, data=_from_hexadecimal(value))


def _text_of(kind: bytes, rest: bytes) -> bytes:
    """The text behind a chunk's keyword, its first _INFLATED_BYTES where it is compressed."""
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        # A flag, the method, the language, the translated keyword, the text (PNG, 11.3.3.4).
        compressed = rest[:1] == b"\x01"
        _, _, rest = rest[2:].partition(b"\x00")
        _, _, rest = rest.partition(b"\x00")
    elif compressed:
        rest = rest[1:]
    if not compressed:
        return rest
    try:
        return zlib.decompressobj().decompress(rest, _INFLATED_BYTES)
    except zlib.error:
        return b""


def _from_hexadecimal(profile: bytes) -> bytes:
    """The bytes of an ImageMagick profile: a name and a length on lines of their own, then
    hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _of_webp(data: bytes) -> Iterator[_Block]:
    """The chunks EXIF and "XMP ". A chunk is its name, its length, and data padded to even
    length."""
    position = 12
    while position + 8 <= len(data):
        name, length = data[position : position + 4], *struct.unpack_from("<I", data, position + 4)
        if name in (b"EXIF", b"XMP "):
            yield _Block(exif=name == b"EXIF", data=data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each whole chunk of a PNG up to its end: length, kind, data, checksum
    (PNG, 5.3)."""
    start = len(_PNG_START)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data) or kind == b"IEND":
            return
        yield kind, start, end
        start = end
