"""Odd files that every decoder must take or refuse alike."""

import functools
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.base.errors import InvalidInput
from serving.images import hardware_jpeg
from serving.images.decoding import decode, use_jpeg_decoder
from serving.images.masks.files import read_mask
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from tests.support import fake_gpu
from tests.support.pictures import (
    Pixels,
    encoded,
    exif,
    jpeg_markers,
    jpeg_segment,
    png_chunk,
    smooth,
    with_chunks,
    with_segments,
)

PHOTO = smooth(120, 200)
JUNK = bytes(np.random.default_rng(0).integers(1, 255, 300, np.uint8))
REFUSED = r"cannot decode|not an image"
REDUCED = EvalTransform(resize=12, crop=(12, 12))
# Every way that a JPEG takes through the decoders.
JPEGS: dict[str, Callable[[], bytes]] = {
    "upright": lambda: encoded(PHOTO, "JPEG"),
    "progressive": lambda: encoded(PHOTO, "JPEG", progressive=True),
    "rotated": lambda: encoded(PHOTO, "JPEG", exif=exif(6)),
    "mirrored": lambda: encoded(PHOTO, "JPEG", exif=exif(2)),
    "progressive and rotated": lambda: encoded(PHOTO, "JPEG", exif=exif(8), progressive=True),
    "cmyk": lambda: encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "grey": lambda: encoded(PHOTO[..., 0], "JPEG"),
    "restart markers": lambda: encoded(PHOTO, "JPEG", restart_marker_blocks=4),
}
jpegs = pytest.mark.parametrize("jpeg", [made() for made in JPEGS.values()], ids=list(JPEGS))


@pytest.fixture(params=["libjpeg", "hardware"], autouse=True)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our decoders alone, then with one in hardware before them."""
    if request.param == "hardware":
        monkeypatch.syspath_prepend(str(fake_gpu.FOLDER))
        monkeypatch.delitem(sys.modules, "nvidia", raising=False)
        assert hardware_jpeg.enable() is None
    yield
    use_jpeg_decoder(None)
    for name in [name for name in sys.modules if name.split(".")[0] == "nvidia"]:
        del sys.modules[name]


def decoded_alike(odd: bytes, plain: bytes) -> None:
    """The same pixels, decoded whole and decoded small."""
    assert np.array_equal(decode(odd), decode(plain))
    found, expected = (load_image(data, REDUCED).pixels.astype(int) for data in (odd, plain))
    # Hardware decodes in full what ours reduce on the way.
    assert np.abs(found - expected).mean() < 2


@jpegs
@pytest.mark.parametrize(
    "stray", [JUNK, bytes(70_000), b"\xff" * 50, b"\xff\x00" * 20], ids=["junk", "0", "ff", "ff00"]
)
def test_stray_bytes_before_the_end_marker_are_passed_over(jpeg: bytes, stray: bytes) -> None:
    decoded_alike(jpeg[:-2] + stray + jpeg[-2:], jpeg)


@jpegs
def test_stray_bytes_between_markers_are_passed_over(jpeg: bytes) -> None:
    for position in jpeg_markers(jpeg):
        decoded_alike(jpeg[:position] + JUNK + jpeg[position:], jpeg)


def test_stray_bytes_between_scans_are_passed_over() -> None:
    jpeg = JPEGS["progressive"]()
    scan = jpeg.rindex(b"\xff\xda")
    decoded_alike(jpeg[:scan] + JUNK + jpeg[scan:], jpeg)


@pytest.mark.parametrize(
    "segment",
    [
        jpeg_segment(0xE0, b"JFIF\x00\x09\x09\x00\x00\x01\x00\x01\x00\x00"),
        jpeg_segment(0xEE, b"Adobe\x00\x64\x00\x00\x00\x00\x07"),
        jpeg_segment(0xE2, b"ICC_PROFILE\x00\x09\x02" + bytes(90)),
    ],
    ids=["unknown JFIF revision", "unknown Adobe transform", "bad ICC marker"],
)
def test_other_warnings_of_libjpeg_are_no_errors(segment: bytes) -> None:
    jpeg = JPEGS["upright"]()
    found = decode(with_segments(jpeg, segment)).astype(int)
    assert np.abs(found - decode(jpeg)).max() <= 2


@jpegs
@pytest.mark.parametrize("stray", [b"", JUNK], ids=["clean", "with stray bytes"])
def test_jpeg_that_is_cut_off_is_refused_wherever_it_ends(jpeg: bytes, stray: bytes) -> None:
    jpeg = jpeg[:-2] + stray + jpeg[-2:]
    scan = jpeg.index(b"\xff\xda")
    ends = [3, 20, *jpeg_markers(jpeg), scan + 8, (scan + len(jpeg)) // 2, len(jpeg) - 10]
    for end in [*ends, len(jpeg) - 2, len(jpeg) - 1]:
        with pytest.raises(InvalidInput, match=REFUSED):
            decode(jpeg[:end])
        with pytest.raises(InvalidInput, match=REFUSED):
            load_image(jpeg[:end], REDUCED)


@functools.cache
def large_texts(size: int) -> dict[str, bytes]:
    """PNG chunks of `size` bytes, before or behind compression."""
    noise, zeros = random.randbytes(size), bytes(size)
    return {
        "tEXt": png_chunk(b"tEXt", b"Comment\x00" + noise.replace(b"\x00", b" ")),
        "zTXt": png_chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(zeros)),
        "iTXt": png_chunk(b"iTXt", b"Comment\x00\x00\x00\x00\x00" + b"x" * size),
        "iTXt compressed": png_chunk(
            b"iTXt", b"Comment\x00\x01\x00\x00\x00" + zlib.compress(zeros)
        ),
        "iCCP": png_chunk(b"iCCP", b"profile\x00\x00" + zlib.compress(zeros)),
        "XMP": png_chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + zlib.compress(zeros)),
        "raw EXIF": png_chunk(b"zTXt", b"Raw profile type exif\x00\x00" + zlib.compress(zeros)),
        "unknown": png_chunk(b"prVt", noise),
    }


@pytest.mark.parametrize("kind", large_texts(1))
@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
def test_png_with_large_texts_decodes(kind: str, behind: bool) -> None:
    plain = encoded(PHOTO, "PNG")
    odd = with_chunks(plain, large_texts(2 << 20)[kind], behind=behind)
    decoded_alike(odd, plain)


def test_png_with_many_texts_decodes() -> None:
    texts = [png_chunk(b"tEXt", b"Comment\x00" + b"x" * (1 << 20))] * 70
    assert np.array_equal(decode(with_chunks(encoded(PHOTO, "PNG"), *texts)), PHOTO)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt compressed", "iCCP", "XMP", "raw EXIF"])
def test_zip_bomb_in_a_text_is_not_inflated(kind: str) -> None:
    bomb = large_texts(16 << 20)[kind]
    data = with_chunks(encoded(PHOTO, "PNG"), *[bomb] * 20)
    tracemalloc.start()
    try:
        assert np.array_equal(decode(data), PHOTO)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(data) + (8 << 20)


def test_animated_png_with_texts_gives_its_first_picture() -> None:
    other = Image.fromarray(PHOTO[::-1].copy())
    data = encoded(Image.fromarray(PHOTO), "PNG", save_all=True, append_images=[other])
    assert np.array_equal(decode(with_chunks(data, large_texts(2 << 20)["zTXt"])), PHOTO)


@pytest.mark.parametrize("turned", [None, 6])
def test_jpeg_with_large_segments_decodes(turned: int | None) -> None:
    plain = encoded(PHOTO, "JPEG", **({} if turned is None else {"exif": exif(turned)}))
    segments = [
        jpeg_segment(marker, random.randbytes(65_000)) for marker in (0xE2, 0xED, 0xFE) * 12
    ]
    decoded_alike(with_segments(plain, *segments), plain)


def test_webp_with_large_metadata_decodes() -> None:
    large = random.randbytes(2 << 20)
    options = {"lossless": True, "exif": exif(None) + large, "xmp": large, "icc_profile": large}
    assert np.array_equal(decode(encoded(PHOTO, "WEBP", **options)), PHOTO)


def test_masks_with_large_texts_are_read(tmp_path: Path) -> None:
    mask = (PHOTO[..., 0] > 100).astype(np.uint8)
    file = tmp_path / "mask.png"
    file.write_bytes(with_chunks(encoded(mask, "PNG"), large_texts(2 << 20)["zTXt"]))
    assert np.array_equal(read_mask(file).values, mask)


def test_pixels_are_those_of_the_file() -> None:
    pixels: Pixels = decode(JPEGS["upright"]())
    assert np.abs(pixels.astype(int) - PHOTO).mean() < 4
