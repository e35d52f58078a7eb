"""What a decode takes is known, and refused, before it is spent."""

import functools
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.serving.decode_memory import BICUBIC, SLACK, Case, measured
from serving.base.errors import InvalidInput, QueueFull
from serving.base.memory import LARGE
from serving.images import cost
from serving.images.decoding import decode, sent_size
from serving.images.metadata import orientation
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from tests.support import hostile_files
from tests.support.pictures import (
    encoded,
    exif,
    jpeg_segment,
    png_chunk,
    smooth,
    webp_chunk,
    with_chunks,
    with_segments,
)

PHOTO = smooth(120, 200)
MANY = 1 << 18
FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(PHOTO, "JPEG"),
    "progressive": lambda: encoded(PHOTO, "JPEG", progressive=True),
    "turned": lambda: encoded(PHOTO, "JPEG", exif=exif(6)),
    "cmyk": lambda: encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "png": lambda: encoded(PHOTO, "PNG"),
    "webp": lambda: encoded(PHOTO, "WEBP"),
    "bmp": lambda: encoded(PHOTO, "BMP"),
}
files = pytest.mark.parametrize("made", FILES.values(), ids=list(FILES))


@files
def test_decode_that_may_not_begin_fails_with_the_reason(made: Callable[[], bytes]) -> None:
    def refuse(_: object) -> None:
        raise QueueFull("no memory", 0.1)

    with pytest.raises(QueueFull, match="no memory"):
        decode(made(), reserve=refuse)
    with pytest.raises(QueueFull, match="no memory"):
        load_image(made(), BICUBIC, reserve=refuse)


@files
def test_plan_covers_the_pixels_and_names_their_size(made: Callable[[], bytes]) -> None:
    plans: list[cost.Plan] = []
    pixels = decode(made(), reserve=plans.append)
    assert (plans[-1].height, plans[-1].width) == pixels.shape[:2]
    assert plans[-1].kept == pixels.nbytes < plans[-1].peak


@files
def test_size_is_in_the_header(made: Callable[[], bytes]) -> None:
    assert sent_size(made()) == (120, 200)
    assert sent_size(made()[:20]) == (0, 0)


def test_reduced_decode_takes_a_fraction() -> None:
    data = encoded(np.asarray(Image.fromarray(PHOTO).resize((3200, 1920))), "JPEG")
    sizes: list[int] = []
    load_image(data, EvalTransform(resize=60, crop=(56, 56)), reserve=sizes.append)
    load_image(data, EvalTransform(resize=1800, crop=(56, 56)), reserve=sizes.append)
    assert sizes[0] * 5 < sizes[1]


def huge(side: int = 2048) -> list[Case]:
    image = Image.fromarray(smooth(side, side))
    return [
        Case("jpeg", encoded(image, "JPEG")),
        Case("progressive", encoded(image, "JPEG", progressive=True, subsampling="4:4:4")),
        Case("webp", hostile_files.webp(side, side)),
        Case("png", hostile_files.png(side, side, depth=16, colour=6, adam7=True), BICUBIC),
    ]


@pytest.mark.parametrize("case", huge(), ids=lambda case: case.name)
def test_memory_of_a_decode_is_what_was_reserved(case: Case) -> None:
    reserved, taken = measured(case)
    assert 0 < taken <= reserved + SLACK


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "CMYK", "GREY16"])
def test_image_in_bands_is_that_in_one_piece(
    file_format: str, turned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(PHOTO)
    if file_format == "CMYK":
        data = encoded(image.convert("CMYK"), "JPEG", exif=exif(turned))
    elif file_format == "GREY16":
        data = encoded(Image.fromarray(PHOTO[..., 0].astype(np.uint16) << 8), "PNG")
        data = with_chunks(data, png_chunk(b"eXIf", exif(turned)[6:]))
    else:
        data = encoded(image, "PNG", exif=exif(turned))
    whole = decode(data)
    monkeypatch.setattr(cost, "BAND_PIXELS", 1234)
    assert np.array_equal(decode(data), whole)
    if file_format == "PNG":
        image.getexif()[0x0112] = turned
        assert np.array_equal(whole, np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize(
    ("scans", "side", "said"),
    [(65, 8, "65 JPEG scans, the limit is 64"), (20, 7900, "1248200000 pixels to go over")],
)
def test_jpeg_of_too_many_scans_is_refused(scans: int, side: int, said: str) -> None:
    begun: list[cost.Plan] = []
    with pytest.raises(InvalidInput, match=said):
        decode(hostile_files.progressive_jpeg(side, side, scans), reserve=begun.append)
    assert not begun


def test_jpeg_that_takes_long_takes_its_turn_as_large_work_does() -> None:
    begun: list[cost.Plan] = []
    decode(hostile_files.progressive_jpeg(1000, 1000, 40), reserve=begun.append)
    decode(hostile_files.progressive_jpeg(500, 500, 40), reserve=begun.append)
    slow, quick = begun
    assert slow.peak > LARGE > quick.peak


def test_jpeg_with_arithmetic_coding_is_refused() -> None:
    data = encoded(PHOTO, "JPEG", progressive=True).replace(b"\xff\xc2", b"\xff\xca")
    with pytest.raises(InvalidInput, match="arithmetic coding"):
        decode(data)


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_image_of_a_side_that_no_camera_has_is_refused(size: tuple[int, int]) -> None:
    begun: list[cost.Plan] = []
    with pytest.raises(InvalidInput, match="a side has at most 65535 pixels"):
        decode(hostile_files.png(*size), reserve=begun.append)
    assert not begun


def test_scans_of_a_preview_are_not_counted() -> None:
    plain = encoded(PHOTO, "JPEG", progressive=True)
    odd = with_segments(plain, jpeg_segment(0xE2, b"\xff\xda" * 100))
    assert np.array_equal(decode(odd), decode(plain))


def test_jpeg_of_two_frames_is_refused() -> None:
    data = encoded(PHOTO, "JPEG")
    frame = jpeg_segment(0xC0, struct.pack(">BHHB", 8, 4, 4, 1) + b"\x01\x11\x00")
    with pytest.raises(InvalidInput, match="header is damaged"):
        decode(with_segments(data, frame))


@functools.cache
def made_to_take_long() -> dict[str, bytes]:
    """Files whose parts cost minutes or gigabytes where each is read."""
    jpeg, turned, png = (FILES[name]() for name in ("jpeg", "turned", "png"))
    webp = encoded(PHOTO, "WEBP", lossless=True, exif=exif(None))
    tags = b"".join(struct.pack("<HHII", tag, 7, 0xFFFF, 8) for tag in range(5000))
    overlapping = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + tags
    runs = bytearray(hostile_files.bmp(2000, 2000))
    return {
        "jpeg of empty segments": with_segments(jpeg, jpeg_segment(0xE1, b"") * 20_000),
        "jpeg of stuffing": jpeg[:2] + b"\xff\x00" * MANY + jpeg[2:],
        "jpeg of quantisation tables": with_segments(
            turned, *[jpeg_segment(0xDB, (b"\x00" + b"\x01" * 64) * 1000)] * 20
        ),
        "png of empty chunks": with_chunks(png, png_chunk(b"prVt", b"") * MANY),
        "png of empty pixels": with_chunks(png, png_chunk(b"IDAT", b"") * MANY, behind=True),
        "webp of empty chunks": webp + webp_chunk(b"JUNK", b"") * MANY,
        "jpeg of large values in EXIF": with_segments(
            jpeg, *[jpeg_segment(0xE1, b"Exif\0\0" + overlapping)] * 20
        ),
        "png of EXIF heads": with_chunks(png, png_chunk(b"eXIf", b"Exif\0\0" * MANY)),
        "png of large values in EXIF": with_chunks(
            png, png_chunk(b"eXIf", overlapping + bytes(1 << 22))
        ),
        "jpeg of fill bytes": with_segments(turned, b"\xff" * 16 * MANY),
        "jpeg of stray bytes": jpeg[:2] + bytes(16 * MANY) + turned[2:],
        "jpeg without pixels": jpeg[:20] + bytes(16 * MANY),
        "bmp of run lengths": bytes(runs) + b"\0\0" * 4 * MANY,
    }


TAKEN = {"of EXIF heads", "of large values in EXIF", "of fill bytes", "of stray bytes"}


@pytest.mark.parametrize("kind", made_to_take_long())
def test_file_that_is_made_to_take_long_is_read_at_once_or_refused(kind: str) -> None:
    data = made_to_take_long()[kind]
    tracemalloc.start()
    try:
        if kind.partition(" ")[2] in TAKEN:
            assert decode(data).size == PHOTO.size
        else:
            with pytest.raises(InvalidInput, match="cannot decode image"):
                decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(data) + (8 << 20)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "count", "told"), [(3, 1, 6), (4, 1, 6), (3, 2, 1), (2, 1, 1)])
def test_orientation_is_one_whole_number(order: str, kind: int, count: int, told: int) -> None:
    number = struct.pack(order + ("I" if kind == 4 else "HH"), *((6,) if kind == 4 else (6, 0)))
    entry = struct.pack(order + "HHI", 0x0112, kind, count) + number
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    block = head + struct.pack(order + "H", 1) + entry
    data = with_segments(FILES["jpeg"](), jpeg_segment(0xE1, b"Exif\0\0" + block))
    assert orientation(data) == told
