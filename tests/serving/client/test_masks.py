"""`mask_of`: a mask of a server is checked before memory is taken for it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from protos.gen import vision_pb2 as pb
from serving.client import mask_of
from serving.client.images import MAX_MASK_PIXELS

MASK = np.array([[0, 0, 1], [1, 1, 300]], np.uint16)


def png(mode: str, size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    Image.new(mode, size).save(content, "PNG")
    return content.getvalue()


def headed(width: int, height: int) -> bytes:
    """A PNG whose header promises more than follows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def rle(*runs: int, height: int = 2, width: int = 3) -> pb.Segmentation:
    return pb.Segmentation(height=height, width=width, rle=pb.RunLengths(runs=runs))


def test_every_format_gives_its_mask() -> None:
    assert np.array_equal(mask_of(rle(0, 2, 1, 3, 300, 1)), MASK)
    wide = pb.Segmentation(height=2, width=3, raw=MASK.astype("<u2").tobytes())
    assert np.array_equal(mask_of(wide), MASK)
    low = np.array([[1, 2, 3]], np.uint8)
    assert np.array_equal(mask_of(pb.Segmentation(height=1, width=3, raw=low.tobytes())), low)
    content = io.BytesIO()
    image = Image.fromarray(low)
    image.putpalette(bytes(768))
    image.save(content, "PNG")
    found = mask_of(pb.Segmentation(height=1, width=3, palette_png=content.getvalue()))
    assert np.array_equal(found, low)
    assert found.dtype == np.uint16


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (rle(0, 4_000_000_000), "add up to 4000000000"),
        (rle(*[0, 4_294_967_295] * 3), "add up to"),
        (rle(0, 5), "add up to 5"),
        (rle(), "add up to 0"),
        (rle(0, 6, 1), "3 run lengths"),
        (rle(*[0, 0] * 7), "14 run lengths"),
        (rle(65_536, 6), "65536 is past 65535"),
        (rle(0, 1, height=4_000_000_000, width=4_000_000_000), "more than"),
        (rle(0, MAX_MASK_PIXELS + 1, height=1, width=MAX_MASK_PIXELS + 1), "more than"),
        (pb.Segmentation(height=2, width=3), "got 0 bytes"),
        (pb.Segmentation(height=2, width=3, raw=bytes(7)), "got 7 bytes"),
        (pb.Segmentation(height=2, width=3, raw=bytes(18)), "got 18 bytes"),
        (pb.Segmentation(height=2, width=3, palette_png=b"GIF89a"), "cannot be read"),
        (pb.Segmentation(height=2, width=3, palette_png=png("L", (2, 3))), "a PNG of 3x2"),
        (pb.Segmentation(height=2, width=3, palette_png=png("RGB", (3, 2))), "mode RGB"),
        (pb.Segmentation(height=2, width=3, palette_png=png("1", (3, 2))), "mode 1"),
        (pb.Segmentation(height=2, width=3, palette_png=headed(60_000, 60_000)), "mask of 2x3"),
        (pb.Segmentation(height=900, width=900, palette_png=headed(900, 900)), "cannot be read"),
        (pb.Segmentation(height=2, width=3, palette_png=png("L", (3, 2))[:40]), "cannot be read"),
    ],
)
def test_mask_that_does_not_fill_its_size_is_refused(result: pb.Segmentation, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mask_of(result)


def test_caller_may_allow_larger_and_only_smaller_masks() -> None:
    with pytest.raises(ValueError, match="more than 5 pixels"):
        mask_of(rle(0, 6), max_pixels=5)
    assert mask_of(rle(0, 6), max_pixels=6).shape == (2, 3)
