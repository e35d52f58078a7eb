"""Image files that are small to send and large to decode, made in code.

`SIDE` squared are the most pixels that the server took when these files were found.
"""

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from tests.support.pictures import jpeg_segment, png_chunk, webp_chunk

SIDE = 7999
_PNG_START = b"\x89PNG\r\n\x1a\n"
# Colour types of PNG, and their samples a pixel.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The lossless WebP of one black pixel after another, up to and from its size: every one of its
# codes has one symbol, so that no pixel takes a bit.
_VP8L_HEAD, _VP8L_REST = b"\x2f", bytes.fromhex("071011fd0f4444ff03")
# Blocks of zeros that one code of a progressive JPEG may stand for, at most, and the bits of that.
_RUN, _RUN_BITS = 32767, "0" + "1" * 14


def webp(width: int = SIDE, height: int = SIDE) -> bytes:
    """34 bytes in one colour, lossless."""
    size = (width - 1 | height - 1 << 14).to_bytes(4, "little")
    chunk = webp_chunk(b"VP8L", _VP8L_HEAD + size + _VP8L_REST)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def animated_webp(width: int = SIDE, height: int = SIDE, frames: int = 200) -> bytes:
    """Frames of 34 bytes each."""
    still = webp(width, height)[12:]
    minus = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    frame = webp_chunk(b"ANMF", bytes(6) + minus + bytes(4) + still)
    head = webp_chunk(b"VP8X", b"\x02\0\0\0" + minus) + webp_chunk(b"ANIM", bytes(6))
    body = head + frame * frames
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def png(
    width: int = SIDE, height: int = SIDE, *, depth: int = 8, colour: int = 0, adam7: bool = False
) -> bytes:
    """All zeros: of 1 bit grey (`depth` 1) 64 million pixels take 8 KB, of 16 bits RGBA (`depth`
    16, `colour` 6) 500."""
    packer = zlib.compressobj(9)
    parts = []
    for across, down in _passes(width, height) if adam7 else [(width, height)]:
        row = bytes(1 + -(-across * depth * _SAMPLES[colour] // 8))
        many = max(1, min(down, (1 << 20) // len(row)))
        whole, rest = divmod(down, many)
        parts += [packer.compress(row * many) for _ in range(whole)]
        parts.append(packer.compress(row * rest))
    data = b"".join([*parts, packer.flush()])
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(adam7))
    palette = png_chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    chunks = png_chunk(b"IHDR", head) + palette + png_chunk(b"IDAT", data)
    return _PNG_START + chunks + png_chunk(b"IEND", b"")


def _passes(width: int, height: int) -> list[tuple[int, int]]:
    """(width, height) of the passes of an interlaced PNG that have pixels."""
    starts = (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    )
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in starts]
    return [size for size in sizes if min(size) > 0]


def png_with_text_bomb(mib: int = 512) -> bytes:
    """A PNG of one pixel beside a compressed text and a profile, each of `mib` MiB of zeros."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(mib)]
    packed = b"".join([*parts, packer.flush()])
    plain = png(1, 1)
    texts = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + packed)
    texts += png_chunk(b"iCCP", b"profile\0\0" + packed)
    return plain[:33] + texts + plain[33:]


def bmp(width: int = SIDE, height: int = SIDE) -> bytes:
    """Eight bits a pixel, compressed by run lengths, 200 bytes: it ends before its pixels do."""
    runs = b"\xff\x00" * 50 + b"\x00\x01"
    palette = bytes(4 * 256)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + head + palette + runs


def progressive_jpeg(width: int = SIDE, height: int = SIDE, scans: int = 200) -> bytes:
    """Grey; every scan after the first goes over all blocks and says nothing about them. Each is
    a lawful step: one more bit of one more coefficient."""
    blocks = -(-width // 8) * -(-height // 8)
    tables = jpeg_segment(0xDB, b"\0" + b"\x01" * 64)
    frame = jpeg_segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00")
    # One symbol in each table, of one bit: no difference (DC), a run of blocks of zeros (AC).
    one = b"\x01" + bytes(15)
    codes = jpeg_segment(0xC4, b"\x00" + one + b"\x00" + b"\x10" + one + b"\xe0")
    found = [b"\xff\xd8", tables, frame, codes, _scan(0, 0, 0, _packed("0" * blocks))]
    # The last run is longer than the scan, which cuts it off.
    nothing = _packed(_RUN_BITS * -(-blocks // _RUN))
    steps = [
        (place, high, high - 1 if high else 13)
        for place in range(1, 64)
        for high in (0, *range(13, 0, -1))
    ]
    found += [_scan(place, high, low, nothing) for place, high, low in steps[: scans - 1]]
    return b"".join([*found, b"\xff\xd9"])


def _scan(place: int, high: int, low: int, data: bytes) -> bytes:
    head = struct.pack(">BBBBBB", 1, 1, 0, place, place, high << 4 | low)
    return jpeg_segment(0xDA, head) + data


def _packed(bits: str) -> bytes:
    """Bits as entropy-coded data: filled up with ones, a zero byte behind each 0xff."""
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return data.replace(b"\xff", b"\xff\0")


def jpeg(width: int = SIDE, height: int = SIDE) -> bytes:
    """A plain JPEG of one colour, written by Pillow; 64 million pixels take 1 MB."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def many_segments(count: int = 60_000) -> bytes:
    """A JPEG of one pixel behind `count` empty segments."""
    plain = jpeg(8, 8)
    return plain[:2] + jpeg_segment(0xE1, b"") * count + plain[2:]


# By name, each for a number of pixels a side, so that a test may ask for small ones.
BOMBS: dict[str, Callable[[int], bytes]] = {
    "webp": lambda side: webp(side, side),
    "animated-webp": lambda side: animated_webp(side, side),
    "png-1-bit": lambda side: png(side, side, depth=1),
    "png-palette": lambda side: png(side, side, depth=1, colour=3),
    "png-rgba": lambda side: png(side, side, colour=6),
    "png-16-bit": lambda side: png(side, side, depth=16, colour=6),
    "png-interlaced": lambda side: png(side, side, depth=16, colour=6, adam7=True),
    "bmp": lambda side: bmp(side, side),
    "jpeg-scans": lambda side: progressive_jpeg(side, side),
}
