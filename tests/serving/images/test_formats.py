"""Files of every format and depth, and raw pixels, become RGB of 8 bits."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from serving.base.errors import InvalidInput
from serving.images.decoding import decode, from_raw
from tests.support.pictures import encoded, exif, noise, png, png_chunk, smooth

HEIGHT, WIDTH = 24, 40


@pytest.mark.parametrize("file_format", ["PNG", "BMP"])
def test_lossless_files_decode_to_their_exact_pixels(file_format: str) -> None:
    pixels = decode(encoded(noise(), file_format))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, noise())


def test_lossless_webp_decodes_to_its_exact_pixels() -> None:
    assert np.array_equal(decode(encoded(noise(), "WEBP", lossless=True)), noise())


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "subsampling": 2}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("WEBP", {"quality": 95}),
    ],
)
def test_lossy_files_decode_to_nearly_their_pixels(
    file_format: str, options: dict[str, object]
) -> None:
    pixels = decode(encoded(smooth(), file_format, **options))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - smooth()).mean() < 4


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_decodes_alike_with_and_without_exif(subsampling: int) -> None:
    plain = encoded(smooth(), "JPEG", subsampling=subsampling)
    tagged = encoded(smooth(), "JPEG", subsampling=subsampling, exif=exif(1))
    difference = np.abs(decode(plain).astype(int) - decode(tagged))
    # Two decoders: a plain file never sees Pillow.
    assert difference.max() <= 2


def test_jpeg_of_rare_chroma_subsampling_is_decoded() -> None:
    grey = encoded(np.full((8, 16, 3), 128, np.uint8), "JPEG", subsampling=0)
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    rare = bytearray(grey[: scan + 14])
    # Cb is sampled twice as often as Y. One block of Y, two of Cb, one of Cr, all of value 0 in the
    # standard Huffman codes: 001010, 0000 0000, 0000, and ones to fill the byte.
    rare[frame + 14] = 0x21
    rare += bytes([0b00101000, 0b00000000, 0b00111111]) + b"\xff\xd9"
    assert np.array_equal(decode(bytes(rare)), np.full((8, 16, 3), 128))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_greyscale_gets_three_equal_channels(file_format: str) -> None:
    grey = smooth()[..., 2]
    pixels = decode(encoded(grey, file_format))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert np.abs(pixels[..., 0].astype(int) - grey).max() <= (4 if file_format == "JPEG" else 0)


def test_cmyk_jpeg_becomes_the_rgb_that_pillow_makes_of_it() -> None:
    data = encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
        expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decode(data) - expected).max() <= 2
    assert np.abs(expected - smooth()).mean() < 8


def test_sixteen_bit_greyscale_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xABCD, 0xFF00, 0xFFFF]], np.uint16)
    pixels = decode(encoded(levels, "PNG"))
    expected = [[0, 0, 1, 0x7F], [0x80, 0xAB, 0xFF, 0xFF]]
    for channel in range(3):
        assert pixels[..., channel].tolist() == expected


def test_sixteen_bit_greyscale_is_turned_upright() -> None:
    levels = np.array([[0x0100, 0x0200, 0x0300], [0x0400, 0x0500, 0x0600]], np.uint16)
    pixels = decode(encoded(levels, "PNG", exif=exif(6)))
    assert pixels[..., 0].tolist() == [[4, 1], [5, 2], [6, 3]]


def test_sixteen_bit_rgb_keeps_the_high_byte() -> None:
    row = struct.pack(">B6H", 0, 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0x0000, 0x80FF)
    pixels = decode(png(2, 1, 16, 2, row))
    assert pixels.tolist() == [[[0x12, 0x56, 0x9A], [0xFF, 0x00, 0x80]]]


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_alpha_channel_is_dropped_not_blended(file_format: str) -> None:
    alpha = np.tile(np.arange(1, WIDTH + 1, dtype=np.uint8), (HEIGHT, 1))
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    data = encoded(np.dstack([noise(), alpha]), file_format, **options)
    assert np.array_equal(decode(data), noise())


def test_grey_with_alpha_is_dropped_not_blended() -> None:
    grey = noise()[..., 0]
    data = encoded(np.dstack([grey, np.full_like(grey, 9)]), "PNG")
    assert np.array_equal(decode(data), np.dstack([grey] * 3))


@pytest.mark.parametrize("transparency", [None, b"\x00\x80\xff"], ids=["opaque", "alpha-by-colour"])
def test_palette_gives_its_colours(transparency: bytes | None) -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    colours = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    image = Image.fromarray(indices)
    image.putpalette([level for colour in colours for level in colour])
    options = {} if transparency is None else {"transparency": transparency}
    pixels = decode(encoded(image, "PNG", **options))
    assert pixels.tolist() == [[colours[0], colours[1]], [colours[2], colours[1]]]


def test_transparent_colour_of_an_rgb_png_stays_that_colour() -> None:
    row = bytes([0, 1, 2, 3, 4, 5, 6])
    transparent = png_chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))
    assert decode(png(2, 1, 8, 2, row, transparent)).tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_one_bit_png_is_black_and_white() -> None:
    assert decode(png(3, 1, 1, 0, b"\x00\xa0"))[0, :, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_trailing_garbage_is_ignored(file_format: str) -> None:
    data = encoded(smooth(), file_format)
    assert np.array_equal(decode(data + b"\x00garbage\xff\xd8" * 9), decode(data))


def test_raw_pixels_are_row_major_rgb() -> None:
    pixels = from_raw(bytes(range(18)), height=2, width=3)
    assert pixels.tolist() == [
        [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
        [[9, 10, 11], [12, 13, 14], [15, 16, 17]],
    ]


@pytest.mark.parametrize("length", [0, 17, 19])
def test_raw_pixels_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(InvalidInput, match=f"3x2 needs 18 bytes .*got {length}"):
        from_raw(bytes(length), height=2, width=3)


@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0), (0, 0)])
def test_raw_image_without_pixels_is_refused(height: int, width: int) -> None:
    with pytest.raises(InvalidInput, match="no pixels"):
        from_raw(b"", height, width)


def test_raw_image_over_the_pixel_limit_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"4294967295x4294967295 is .* the limit is"):
        from_raw(b"", 2**32 - 1, 2**32 - 1)
