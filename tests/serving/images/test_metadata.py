"""Which way is up: one rule for every format, whatever decodes the file."""

import struct
import zlib

import numpy as np
import pytest

from serving.images.decoding import decode
from serving.images.metadata import orientation, pixels_only
from tests.support.pictures import (
    encoded,
    exif,
    exif_segment,
    jpeg_segment,
    png_chunk,
    smooth,
    webp_chunk,
    with_chunks,
    with_segments,
    xmp,
    xmp_segment,
)

PHOTO = smooth()
JPEG, PNG = encoded(PHOTO, "JPEG", quality=95), encoded(PHOTO, "PNG")
WEBP = encoded(PHOTO, "WEBP", lossless=True, exif=exif(None))


def with_webp_chunks(*chunks: bytes) -> bytes:
    """An extended WebP with these chunks in the place of its EXIF."""
    begin = WEBP.index(b"EXIF")
    body = WEBP[12:begin] + b"".join(chunks)
    flags = bytearray(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)
    flags[20] |= 0x0C  # EXIF and XMP are there
    return bytes(flags)


def itxt(packet: bytes, compressed: bool = False) -> bytes:
    text = zlib.compress(packet) if compressed else packet
    return png_chunk(b"iTXt", b"XML:com.adobe.xmp\x00" + bytes([compressed]) + bytes(3) + text)


def raw_profile(block: bytes) -> bytes:
    return png_chunk(
        b"zTXt",
        b"Raw profile type exif\x00\x00"
        + zlib.compress(f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()),
    )


TURNED = {
    "jpeg: EXIF": with_segments(JPEG, exif_segment(6)),
    "jpeg: XMP alone": with_segments(JPEG, xmp_segment(6)),
    "jpeg: XMP before EXIF": with_segments(JPEG, xmp_segment(3), exif_segment(6)),
    "jpeg: XMP behind EXIF": with_segments(JPEG, exif_segment(6), xmp_segment(3)),
    "jpeg: XMP behind EXIF without the tag": with_segments(
        JPEG, exif_segment(None), xmp_segment(6)
    ),
    "jpeg: XMP before EXIF without the tag": with_segments(
        JPEG, xmp_segment(6), exif_segment(None)
    ),
    "jpeg: second EXIF has the tag": with_segments(JPEG, exif_segment(None), exif_segment(6)),
    "jpeg: first of two EXIF": with_segments(JPEG, exif_segment(6), exif_segment(3)),
    "jpeg: first of two XMP": with_segments(JPEG, xmp_segment(6), xmp_segment(3)),
    "jpeg: damaged EXIF, XMP": with_segments(
        JPEG, jpeg_segment(0xE1, b"Exif\x00\x00" + b"\xff" * 40), xmp_segment(6)
    ),
    "jpeg: other APP1 first": with_segments(
        JPEG, jpeg_segment(0xE1, b"mine\x00" + bytes(90)), exif_segment(6)
    ),
    "jpeg: stray bytes first": JPEG[:2] + b"\x00stray" + exif_segment(6) + JPEG[2:],
    "png: eXIf": with_chunks(PNG, png_chunk(b"eXIf", exif(6)[6:])),
    "png: eXIf behind the pixels": with_chunks(PNG, png_chunk(b"eXIf", exif(6)[6:]), behind=True),
    "png: XMP alone": with_chunks(PNG, itxt(xmp(6))),
    "png: compressed XMP": with_chunks(PNG, itxt(xmp(6), compressed=True)),
    "png: XMP before eXIf": with_chunks(PNG, itxt(xmp(3)), png_chunk(b"eXIf", exif(6)[6:])),
    "png: XMP, eXIf without the tag": with_chunks(
        PNG, png_chunk(b"eXIf", exif(None)[6:]), itxt(xmp(6))
    ),
    "png: raw profile": with_chunks(PNG, raw_profile(exif(6))),
    "webp: EXIF": with_webp_chunks(webp_chunk(b"EXIF", exif(6))),
    "webp: EXIF without its header": with_webp_chunks(webp_chunk(b"EXIF", exif(6)[6:])),
    "webp: XMP alone": with_webp_chunks(webp_chunk(b"XMP ", xmp(6))),
    "webp: XMP and EXIF": with_webp_chunks(
        webp_chunk(b"EXIF", exif(6)), webp_chunk(b"XMP ", xmp(3))
    ),
    "webp: XMP, EXIF without the tag": with_webp_chunks(
        webp_chunk(b"EXIF", exif(None)), webp_chunk(b"XMP ", xmp(6))
    ),
}


@pytest.mark.parametrize("data", TURNED.values(), ids=list(TURNED))
def test_image_is_turned_upright_by_exif_or_else_by_xmp(data: bytes) -> None:
    assert orientation(data) == 6
    pixels = decode(data)
    assert pixels.shape == (40, 24, 3)
    assert np.abs(pixels.astype(int) - np.rot90(PHOTO, -1)).mean() < 4


@pytest.mark.parametrize("value", range(1, 9))
def test_each_orientation_of_xmp_is_that_of_exif(value: int) -> None:
    of_exif = decode(with_chunks(PNG, png_chunk(b"eXIf", exif(value)[6:])))
    assert np.array_equal(decode(with_chunks(PNG, itxt(xmp(value)))), of_exif)
    of_exif = decode(with_segments(JPEG, exif_segment(value)))
    found = decode(with_segments(JPEG, xmp_segment(value))).astype(int)
    assert found.shape == of_exif.shape
    assert np.abs(found - of_exif).max() <= 2


@pytest.mark.parametrize(
    "form",
    [
        'tiff:Orientation="{}"',
        "tiff:Orientation='{}'",
        'tiff:Orientation = "{}"',
        "tiff:Orientation>{}</tiff:Orientation>",
        "tiff:Orientation> {} </tiff:Orientation>",
    ],
)
def test_xmp_is_read_as_attribute_and_as_element(form: str) -> None:
    assert orientation(with_chunks(PNG, itxt(xmp(8, form)))) == 8


@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        PNG,
        WEBP,
        encoded(PHOTO, "BMP"),
        with_segments(JPEG, exif_segment(1), xmp_segment(6)),
        with_segments(JPEG, exif_segment(9), xmp_segment(6)),
        with_segments(JPEG, xmp_segment(0)),
        with_segments(JPEG, xmp_segment(66)),
        with_segments(JPEG, xmp_segment(int("9" * 600))),
        with_chunks(PNG, itxt(b"\x00" * 50, compressed=False)),
        with_chunks(PNG, png_chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00broken")),
        with_chunks(PNG, png_chunk(b"tEXt", b"Raw profile type exif\x00\n\n\nnot hexadecimal")),
    ],
)
def test_image_without_a_valid_orientation_is_left_alone(data: bytes) -> None:
    assert orientation(data) == 1
    assert decode(data).shape == PHOTO.shape


def test_exif_behind_the_scan_is_not_read() -> None:
    assert orientation(JPEG + exif_segment(6)) == 1


@pytest.mark.parametrize("data", [JPEG, PNG, WEBP])
def test_cut_off_files_have_an_orientation_or_none(data: bytes) -> None:
    for end in range(0, len(data), 7):
        assert orientation(data[:end]) == 1


def test_png_pixels_only_is_not_copied() -> None:
    assert pixels_only(PNG) is PNG
    assert pixels_only(with_chunks(PNG, itxt(xmp(6)))) == PNG
