"""The parts of an image file beside its pixels: orientation (EXIF, XMP), texts, profiles.

The rule for all formats: the first EXIF block with an orientation tag decides; where no block has
one, the tiff:Orientation of the first XMP packet does; otherwise the image is upright. A value
outside 1 to 8 counts as upright. The order of the blocks in the file does not matter.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from serving.base.errors import InvalidInput
from serving.images import jpeg

UPRIGHT = 1

_PNG_START = b"\x89PNG\r\n\x1a\n"
_EXIF_HEADER = b"Exif\x00\x00"
# Possessive, since the matcher would keep every one to go back to.
_EXIF_HEADERS = re.compile(rb"(?:Exif\x00\x00)*+")
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\x00"
# Chunks of a PNG or WebP file, at most. Photographs have one for each 8 KB or less, and each takes
# about 5 us. Larger lets a hostile file of empty chunks take more time.
_MOST_CHUNKS = 1 << 15
# An entry of a TIFF directory: tag, type, number of values, then the value or its offset (TIFF 6.0,
# section 2). The types that are whole numbers, by their form in `struct`.
_ENTRY_BYTES = 12
_WHOLE_NUMBERS = {3: "H", 4: "I", 8: "h", 9: "i"}
_ORIENTATION_TAG = 0x0112

_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s{0,64}(?:=\s{0,64}[\"']|>)\s{0,64}([0-9]+)")
# Bytes of an XMP block that are searched for it. Searching holds the GIL: 1 ms for so many.
_SEARCHED_BYTES = 1 << 20
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_RAW_EXIF_KEYWORD = b"Raw profile type exif"
# Bytes of a compressed PNG text that are inflated, at most. Cameras put the orientation into the
# first 10 KB. Larger lets a zip bomb take more memory, smaller might miss the orientation.
_INFLATED_BYTES = 1 << 20
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


class _Block(NamedTuple):
    """One piece of metadata.

    exif: whether it is EXIF; XMP otherwise.
    data: its bytes, without the header that names its kind.
    """

    exif: bool
    data: bytes


def orientation(data: bytes, parts: Sequence[jpeg.Segment] | None = None) -> int:
    """The EXIF orientation, 1 to 8, of a JPEG, PNG or WebP file by the rule above; 1 for every
    other file. Damaged metadata is passed over.

    parts: the segments of a JPEG, where the caller has them.
    Raises InvalidInput for a file of far more parts than any real one has.
    """
    if data.startswith(jpeg.START):
        blocks = _of_jpeg(data, jpeg.segments(data) if parts is None else parts)
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
            match = _XMP_ORIENTATION.search(block.data, 0, _SEARCHED_BYTES)
            told_by_xmp = int(match[1][:4]) if match else None
    return _existing(told_by_xmp)


def pixels_only(data: bytes) -> bytes:
    """A PNG without the chunks that its pixels do not need: Pillow would inflate texts and profiles
    and refuse them past 1 MB. Any other file, or a PNG that has no others, as it is.

    Raises InvalidInput for a file of far more chunks than any real one has.
    """
    if not data.startswith(_PNG_START):
        return data
    kept = [_PNG_START]
    begin = len(_PNG_START)
    for kind, start, end in _chunks(data):
        if kind not in _PNG_PIXELS:
            kept.append(data[begin:start])
            begin = end
    return data if len(kept) == 1 else b"".join([*kept, data[begin:]])


def _existing(value: int | None) -> int:
    return value if value is not None and 1 <= value <= 8 else UPRIGHT


def _told_by_exif(exif: bytes) -> int | None:
    """The orientation tag of the first directory; None where there is none that can be read. Other
    tags are not read: each may claim all of the block as its value."""
    headers = _EXIF_HEADERS.match(exif)
    tiff = exif[headers.end() :] if headers else exif
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return None
    (place,) = struct.unpack_from(order + "I", tiff, 4)
    entries = tiff[place : place + 2 + _ENTRY_BYTES * 0xFFFF]
    if len(entries) < 2:
        return None
    (count,) = struct.unpack_from(order + "H", entries)
    whole = min(count, (len(entries) - 2) // _ENTRY_BYTES)
    found = None
    for tag, kind, values, value in struct.iter_unpack(
        order + "HHI4s", entries[2 : 2 + whole * _ENTRY_BYTES]
    ):
        if tag == _ORIENTATION_TAG:
            form = _WHOLE_NUMBERS.get(kind)
            found = struct.unpack_from(order + form, value)[0] if form and values == 1 else None
    return found


def _of_jpeg(data: bytes, parts: Sequence[jpeg.Segment]) -> Iterator[_Block]:
    """The APP1 segments before the first scan that hold EXIF or XMP."""
    for marker, begin, end in parts:
        if marker == jpeg.APP1:
            segment = data[begin:end]
            if segment.startswith(_EXIF_HEADER):
                yield _Block(exif=True, data=segment)
            elif segment.startswith(_XMP_HEADER):
                yield _Block(exif=False, data=segment)


def _of_png(data: bytes) -> Iterator[_Block]:
    """The eXIf chunk, the XMP text, and the text into which ImageMagick puts EXIF. A file has at
    most one of each: the others are not inflated."""
    seen = set()
    for kind, start, end in _chunks(data):
        if kind == b"eXIf":
            yield _Block(exif=True, data=data[start + 8 : end - 4])
        if kind not in _PNG_TEXTS:
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
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, position)
        if name in (b"EXIF", b"XMP "):
            yield _Block(exif=name == b"EXIF", data=data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise _too_many_chunks()


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each whole chunk of a PNG up to its end: length, kind, data, checksum
    (PNG, 5.3)."""
    start = len(_PNG_START)
    for _ in range(_MOST_CHUNKS):
        if start + 12 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data) or kind == b"IEND":
            return
        yield kind, start, end
        start = end
    raise _too_many_chunks()


def _too_many_chunks() -> InvalidInput:
    return InvalidInput(f"cannot decode image: it has more than {_MOST_CHUNKS} chunks")
