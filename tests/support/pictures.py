"""Image files with odd but legal parts, made by hand for tests."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
# How a camera that is turned stores an upright picture, by EXIF orientation.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: np.rot90(upright.transpose(1, 0, 2), 2),
    8: lambda upright: np.rot90(upright, -1),
}


def smooth(height: int = 24, width: int = 40) -> Pixels:
    """A picture that survives JPEG nearly unchanged and that no rotation leaves as it is."""
    rows, columns = np.mgrid[:height, :width]
    red = 40 + 160 * (rows >= height // 3)
    green = 60 + 120 * (columns >= width // 3)
    blue = 30 + 3 * columns
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def noise(seed: int = 0, height: int = 24, width: int = 40) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: NDArray[np.generic] | Image.Image, file_format: str, **options: Any) -> bytes:
    """The image as a file."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def exif(orientation: int | None) -> bytes:
    """An EXIF block; None leaves the orientation tag out."""
    tags = Image.Exif()
    tags[0x010F] = "maker"
    if orientation is not None:
        tags[0x0112] = orientation
    return tags.tobytes()


def xmp(orientation: int, form: str = 'tiff:Orientation="{}"') -> bytes:
    """An XMP packet with tiff:Orientation written as `form`."""
    told = form.format(orientation)
    inside = f"{told}/>" if "=" in told else f"><{told}</rdf:Description>"
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {inside}'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def exif_segment(orientation: int | None) -> bytes:
    return jpeg_segment(0xE1, exif(orientation))


def xmp_segment(orientation: int) -> bytes:
    return jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00" + xmp(orientation))


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG with these segments behind its start."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def jpeg_markers(jpeg: bytes) -> list[int]:
    """Where the markers before the first scan stand, its own included."""
    found = [2]
    while jpeg[found[-1] + 1] != 0xDA:
        length = int.from_bytes(jpeg[found[-1] + 2 : found[-1] + 4], "big")
        found.append(found[-1] + 2 + length)
    return found


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, bit_depth: int, color_type: int, rows: bytes, extra: bytes = b""
) -> bytes:
    """A PNG made by hand; `rows` are filter bytes and samples, `extra` chunks before the data."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def with_chunks(png: bytes, *chunks: bytes, behind: bool = False) -> bytes:
    """A PNG with these chunks behind its header, or `behind` its pixels."""
    place = len(png) - 12 if behind else 33
    return png[:place] + b"".join(chunks) + png[place:]


def webp_chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
