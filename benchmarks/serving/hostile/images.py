"""Attacks by image files: small to send, large or slow to decode or to answer."""

import math
from typing import Any

from benchmarks.serving.hostile.session import VISION, Session
from protos.gen import vision_pb2 as vision
from serving.server.config import ServerConfig
from tests.support import hostile_files

# Pixels a side of the largest square image that the server takes, and of the files as they were
# found: refused since, or taken whole.
LARGEST = math.isqrt(ServerConfig.model_fields["max_image_pixels"].default)
SIDES = sorted({LARGEST, hostile_files.SIDE})


def _image(data: bytes) -> vision.Image:
    return vision.Image(encoded=data)


def classify(*files: bytes) -> bytes:
    """A call to Classify."""
    images = [_image(file) for file in files]
    return vision.ClassifyRequest(model="colours", images=images).SerializeToString()


def segment(*files: bytes, **options: Any) -> bytes:
    """A call to Segment."""
    images = [_image(file) for file in files]
    request = vision.SegmentRequest(model="regions", images=images, **options)
    return request.SerializeToString()


async def _classified(session: Session, kind: str, workers: int = 8) -> None:
    files = [hostile_files.BOMBS[kind](side) for side in SIDES]
    attempts = [session.unary(VISION + "Classify", classify(file)) for file in files]
    await session.repeat(*attempts, workers=workers)


async def webp(session: Session) -> None:
    """34 bytes, 64 million pixels, eight calls at a time."""
    await _classified(session, "webp")


async def animated_webp(session: Session) -> None:
    """200 frames of 34 bytes."""
    await _classified(session, "animated-webp")


async def png_1_bit(session: Session) -> None:
    """7.7 KB, one bit a pixel."""
    await _classified(session, "png-1-bit")


async def png_rgba(session: Session) -> None:
    """243 KB, RGBA."""
    await _classified(session, "png-rgba")


async def png_interlaced(session: Session) -> None:
    """RGBA of 16 bits in seven passes."""
    await _classified(session, "png-interlaced")


async def text_bombs(session: Session) -> None:
    """A PNG of one pixel beside 256 MiB of compressed text; a JPEG of 60,000 segments; a BMP
    that ends early."""
    files = (
        hostile_files.png_with_text_bomb(256),
        hostile_files.many_segments(),
        hostile_files.bmp(),
    )
    attempts = [session.unary(VISION + "Classify", classify(file)) for file in files]
    await session.repeat(*attempts)


async def jpeg_scans(session: Session) -> None:
    """A progressive JPEG of 200 scans over all pixels."""
    await _classified(session, "jpeg-scans", workers=4)


async def jpeg_scans_deadline(session: Session) -> None:
    """Of 60 scans, with a deadline of 0.2 s: what nobody waits for is not decoded."""
    file = hostile_files.progressive_jpeg(LARGEST, LARGEST, 60)
    attempt = session.unary(VISION + "Classify", classify(file), timeout=0.2)
    await session.repeat(attempt, workers=4)


async def many_images(session: Session) -> None:
    """256 files of 34 bytes in one call."""
    call = classify(*[hostile_files.webp(side, side) for side in SIDES] * (256 // len(SIDES)))
    await session.repeat(session.unary(VISION + "Classify", call), workers=2)


async def segment_24(session: Session) -> None:
    """24 PNGs of 7.7 KB, raw masks of their own size: 184 KB in, 1.5 GB out."""
    files = [hostile_files.png(side, side, depth=1) for side in SIDES]
    calls = [segment(*[file] * 24, mask_format=vision.MASK_FORMAT_RAW) for file in files]
    await session.repeat(*(session.unary(VISION + "Segment", call) for call in calls), workers=2)


async def overlay(session: Session) -> None:
    """The mask drawn over the image, one of 64 million pixels, and 16 in one call."""
    files = [hostile_files.png(side, side, colour=2) for side in SIDES]
    calls = [segment(file, overlay=True) for file in files]
    calls.append(segment(*[files[0]] * 16, overlay=True))
    await session.repeat(*(session.unary(VISION + "Segment", call) for call in calls), workers=2)


async def streamed(session: Session) -> None:
    """64 of these calls under way on each of four streams."""
    files = [hostile_files.png(side, side, depth=1) for side in SIDES]
    messages = [segment(file, mask_format=vision.MASK_FORMAT_RAW) for file in files] * 32
    await session.repeat(session.stream(VISION + "SegmentStream", messages), workers=4, most=8)


ATTACKS = (
    webp,
    animated_webp,
    png_1_bit,
    png_rgba,
    png_interlaced,
    text_bombs,
    jpeg_scans,
    jpeg_scans_deadline,
    many_images,
    segment_24,
    overlay,
    streamed,
)
