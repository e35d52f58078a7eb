"""Memory that each kind of image takes while it is decoded, beside the bytes that are reserved.

    python -m benchmarks.serving.decode_memory [--megapixels 16]

Each file is decoded in a process of its own, whose highest resident memory (VmHWM) above that
before the decode is divided by the pixels. The exit status is 1 where a decode takes more than was
reserved for it.
"""

import argparse
import ctypes
import io
import math
import multiprocessing
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from serving.base.machine.cpu import machine
from serving.images.decoding import DEFAULT_MAX_PIXELS, decode
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform

AREA = EvalTransform(resize=256, crop=(224, 224))
BICUBIC = EvalTransform(resize=256, crop=(224, 224), filter="bicubic")
GREY = EvalTransform(resize=256, crop=(224, 224), channels=1)
# Bytes by which a decode may exceed its reservation: pages of code that is used for the first time.
SLACK = 3 << 20
_M_MMAP_THRESHOLD = -3


class Case(NamedTuple):
    """A file and the way that it is decoded: in full, or to a network's input."""

    name: str
    data: bytes
    transform: EvalTransform | None = None


def picture(side: int) -> Image.Image:
    """A smooth picture with some noise, side x side."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (side // 64, side // 64, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def interlaced(side: int) -> bytes:
    """An interlaced RGBA PNG; OpenCV and Pillow write none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    passes = ((8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2))  # columns, rows; all divide
    rows = b"".join(
        (b"\0" + bytes(side // columns * 4)) * (side // down) for columns, down in passes
    )
    head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 1)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def cases(side: int) -> Iterator[Case]:
    image = picture(side)
    jpeg = encoded(image, "JPEG")
    turned = Image.Exif()
    turned[0x0112] = 6
    yield Case("JPEG", jpeg)
    yield Case("JPEG, to 224 by area", jpeg, AREA)
    yield Case("JPEG, to 224 by bicubic", jpeg, BICUBIC)
    yield Case("JPEG, to grey 224 by area", jpeg, GREY)
    yield Case("JPEG 4:4:4", encoded(image, "JPEG", subsampling="4:4:4"))
    progressive = encoded(image, "JPEG", progressive=True)
    yield Case("JPEG progressive", progressive)
    yield Case("JPEG progressive, to 224 by area", progressive, AREA)
    yield Case(
        "JPEG progressive 4:4:4", encoded(image, "JPEG", progressive=True, subsampling="4:4:4")
    )
    yield Case("JPEG turned by EXIF", encoded(image, "JPEG", exif=turned))
    yield Case("JPEG turned, to 224 by area", encoded(image, "JPEG", exif=turned), AREA)
    yield Case("JPEG CMYK", encoded(image.convert("CMYK"), "JPEG"))
    yield Case("JPEG CMYK progressive", encoded(image.convert("CMYK"), "JPEG", progressive=True))
    yield Case("JPEG grey", encoded(image.convert("L"), "JPEG"))
    yield Case("PNG RGB", encoded(image, "PNG", compress_level=1))
    yield Case("PNG RGB, to 224 by area", encoded(image, "PNG", compress_level=1), AREA)
    yield Case("PNG RGB, to 224 by bicubic", encoded(image, "PNG", compress_level=1), BICUBIC)
    yield Case("PNG RGB, to grey 224 by area", encoded(image, "PNG", compress_level=1), GREY)
    yield Case("PNG RGBA", encoded(image.convert("RGBA"), "PNG", compress_level=1))
    yield Case("PNG RGBA turned", encoded(image.convert("RGBA"), "PNG", exif=turned))
    yield Case("PNG RGBA interlaced", interlaced(side))
    yield Case("PNG palette", encoded(image.quantize(64), "PNG"))
    yield Case("PNG 1 bit", encoded(image.convert("1"), "PNG"))
    yield Case("PNG grey and alpha", encoded(image.convert("LA"), "PNG", compress_level=1))
    grey = np.asarray(image.convert("L")).astype(np.uint16) << 8
    yield Case("PNG 16 bits", encoded(Image.fromarray(grey), "PNG", compress_level=1))
    yield Case("WebP lossy", encoded(image, "WEBP", method=0))
    yield Case("WebP lossless", encoded(image, "WEBP", lossless=True, method=0, quality=0))
    yield Case("WebP lossy, alpha", encoded(image.convert("RGBA"), "WEBP", method=0))
    flat = Image.new("RGB", image.size, (200, 20, 20))
    yield Case("WebP lossless, one colour", encoded(flat, "WEBP", lossless=True))
    yield Case(
        "WebP animated",
        encoded(image, "WEBP", save_all=True, append_images=[flat], method=0),
    )
    yield Case("BMP", encoded(image, "BMP"))
    yield Case("BMP palette", encoded(image.quantize(64), "BMP"))
    thin = encoded(image.resize((side // 16, side * 16)), "PNG", compress_level=1)
    for name, transform in (("", None), (" to 224 by area", AREA), (" to 224 by bicubic", BICUBIC)):
        yield Case(f"PNG long and thin{name}", thin, transform)
    yield Case("PNG of one row", encoded(flat.resize((side * side, 1)), "PNG"))


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(name)


def _measured(case: Case, answers: Any) -> None:
    """Runs in a process of its own. Sends the bytes reserved and the bytes taken."""
    reserved: list[int] = []
    small = encoded(picture(64), "PNG" if case.data.startswith(b"\x89") else "JPEG")
    decode(small), load_image(small, AREA)  # loads code
    # Blocks that were freed are memory that a decode no longer takes.
    library = ctypes.CDLL(None)
    library.malloc_trim(0)
    library.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    if case.transform is None:
        decode(case.data, DEFAULT_MAX_PIXELS, lambda plan: reserved.append(plan.peak))
    else:
        load_image(case.data, case.transform, DEFAULT_MAX_PIXELS, reserved.append)
    answers.send((reserved[-1], _status("VmHWM") - before))


def measured(case: Case) -> tuple[int, int]:
    """Bytes reserved, bytes taken."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(case, sender))
    process.start()
    process.join()
    return receiver.recv() if receiver.poll() else (0, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, default=16.0)
    side = round(math.sqrt(parser.parse_args().megapixels * 1e6) / 64) * 64
    fits = True
    print(machine(), flush=True)
    print("| file | bytes | taken, bytes a pixel | reserved | reserved, times |")
    print("| --- | --- | --- | --- | --- |")
    for case in cases(side):
        reserved, taken = measured(case)
        pixels = side * side
        fits &= 0 < taken <= reserved + SLACK
        figures = (taken / pixels, reserved / pixels)
        share = reserved / max(1, taken)
        print(f"| {case.name} | {len(case.data):,} | ", end="")
        print(f"{figures[0]:.1f} | {figures[1]:.1f} | {share:.2f} |", flush=True)
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
