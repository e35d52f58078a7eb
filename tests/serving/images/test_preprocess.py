"""From the bytes of an image file to the pixels that a network sees."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision

from serving.base.errors import InvalidInput
from serving.images.decoding import Pixels, decode, from_raw
from serving.images.preprocess import keeps, load_image, transform
from serving.repository.manifest import EvalTransform

HEIGHT, WIDTH = 24, 40
ORIENTATION = 0x0112
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


def smooth() -> Pixels:
    """A picture that survives JPEG nearly unchanged: four differently coloured quarters."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    red = 40 + 160 * (rows >= 8)
    green = 60 + 120 * (columns >= 16)
    blue = 30 + 3 * columns
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def noise(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels: NDArray[np.generic], file_format: str, **options: object) -> bytes:
    return saved(Image.fromarray(np.ascontiguousarray(pixels)), file_format, **options)


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


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


def with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    """A baseline JPEG whose frame header claims another size."""
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def with_bmp_size(data: bytes, width: int, height: int) -> bytes:
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


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
    tagged = encoded(smooth(), "JPEG", subsampling=subsampling, exif=orientation(1))
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
    data = saved(Image.fromarray(smooth()).convert("CMYK"), "JPEG", quality=95)
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
    pixels = decode(encoded(levels, "PNG", exif=orientation(6)))
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
    pixels = decode(saved(image, "PNG", **options))
    assert pixels.tolist() == [[colours[0], colours[1]], [colours[2], colours[1]]]


def test_transparent_colour_of_an_rgb_png_stays_that_colour() -> None:
    row = bytes([0, 1, 2, 3, 4, 5, 6])
    transparent = png_chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))
    assert decode(png(2, 1, 8, 2, row, transparent)).tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_one_bit_png_is_black_and_white() -> None:
    assert decode(png(3, 1, 1, 0, b"\x00\xa0"))[0, :, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("value", STORED)
def test_exif_orientation_of_png_is_undone(value: int) -> None:
    upright = noise()
    data = encoded(STORED[value](upright), "PNG", exif=orientation(value))
    assert np.array_equal(decode(data), upright)


@pytest.mark.parametrize("value", STORED)
def test_exif_orientation_of_jpeg_is_undone(value: int) -> None:
    upright = smooth()
    data = encoded(STORED[value](upright), "JPEG", quality=95, exif=orientation(value))
    pixels = decode(data)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 4


def test_exif_orientation_behind_other_segments_of_a_jpeg_is_undone() -> None:
    data = encoded(STORED[6](smooth()), "JPEG", quality=95, exif=orientation(6))
    # Three colour profiles of 60 KB, and a marker that is written twice.
    profiles = (b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000)) * 3
    pixels = decode(data[:2] + profiles + b"\xff" + data[2:])
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - smooth()).mean() < 4


def test_exif_orientation_behind_a_marker_without_length_is_undone() -> None:
    data = encoded(STORED[6](smooth()), "JPEG", quality=95, exif=orientation(6))
    assert decode(data[:2] + b"\xff\xd0" + data[2:]).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("density", [{}, {"dpi": (72, 72)}])
def test_damaged_exif_of_a_jpeg_leaves_the_image_alone(density: dict[str, object]) -> None:
    data = encoded(smooth(), "JPEG", quality=95, exif=orientation(1), **density)
    start = data.index(b"Exif") + 6
    damaged = data[:start] + b"\xff" * 8 + data[start + 8 :]
    assert np.array_equal(decode(damaged), decode(data))


def test_exif_orientation_of_webp_is_undone() -> None:
    upright = noise()
    data = encoded(STORED[6](upright), "WEBP", lossless=True, exif=orientation(6))
    assert np.array_equal(decode(data), upright)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_exif_orientation_that_does_not_exist_leaves_the_image_alone(value: int) -> None:
    assert np.array_equal(decode(encoded(noise(), "PNG", exif=orientation(value))), noise())


def test_exif_that_cannot_be_written_back_does_not_harm_the_image() -> None:
    exif = orientation(6)
    exif[0x011A] = 72.0
    block = exif.tobytes()
    # XResolution declared as text: readable, but no rational any more.
    entry = block.index(struct.pack(">HH", 0x011A, 5))
    broken = block[: entry + 2] + struct.pack(">H", 2) + block[entry + 4 :]
    data = encoded(STORED[6](noise()), "PNG", exif=broken)
    assert np.array_equal(decode(data), noise())


def test_multi_picture_jpeg_gives_its_first_picture_upright() -> None:
    first = Image.fromarray(np.ascontiguousarray(STORED[6](smooth())))
    second = Image.new("RGB", (WIDTH, HEIGHT))
    data = saved(
        first, "MPO", save_all=True, append_images=[second], exif=orientation(6), quality=95
    )
    pixels = decode(data)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - smooth()).mean() < 4


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_trailing_garbage_is_ignored(file_format: str) -> None:
    data = encoded(smooth(), file_format)
    assert np.array_equal(decode(data + b"\x00garbage\xff\xd8" * 9), decode(data))


def test_empty_file_is_refused_as_empty() -> None:
    with pytest.raises(InvalidInput, match=r"image is empty \(0 bytes\)"):
        decode(b"")


@pytest.mark.parametrize("exif", [None, 6], ids=["plain", "rotated"])
@pytest.mark.parametrize("kept", [3, 4, 20, 0.3, 0.6, 0.95, -2])
def test_truncated_jpeg_is_refused(kept: float, exif: int | None) -> None:
    options = {} if exif is None else {"exif": orientation(exif)}
    data = encoded(noise(), "JPEG", quality=90, **options)
    length = int(kept * len(data)) if isinstance(kept, float) else kept
    with pytest.raises(InvalidInput, match="cannot decode"):
        decode(data[:length])


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated_lossless_file_is_refused(file_format: str, share: float) -> None:
    data = encoded(noise(), file_format)
    with pytest.raises(InvalidInput):
        decode(data[: int(share * len(data))])


def test_progressive_jpeg_that_is_truncated_is_refused() -> None:
    data = encoded(noise(), "JPEG", progressive=True)
    with pytest.raises(InvalidInput, match="cannot decode"):
        decode(data[: len(data) // 2])


def test_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(encoded(noise(), "PNG"))
    data[data.index(b"IHDR") + 20] ^= 0xFF
    with pytest.raises(InvalidInput, match="cannot decode"):
        decode(bytes(data))


def test_png_with_corrupt_pixel_data_is_refused() -> None:
    data = png(2, 1, 8, 2, bytes(7)).replace(zlib.compress(bytes(7)), b"\x78\x9c" + b"\xff" * 12)
    with pytest.raises(InvalidInput):
        decode(data)


def test_jpeg_with_corrupt_scan_is_refused() -> None:
    data = encoded(noise(), "JPEG")
    scan = data.index(b"\xff\xda") + 14
    with pytest.raises(InvalidInput, match="cannot decode"):
        decode(data[:scan] + b"\xff\xc0\x00" * 40 + data[scan + 120 :])


@pytest.mark.parametrize(
    "data",
    [
        png(0, 4, 8, 2, b""),
        png(4, 0, 8, 2, b""),
        with_jpeg_size(encoded(smooth(), "JPEG"), 0, HEIGHT),
        with_jpeg_size(encoded(smooth(), "JPEG"), WIDTH, 0),
        with_bmp_size(encoded(smooth(), "BMP"), 0, HEIGHT),
    ],
    ids=["png-width", "png-height", "jpeg-width", "jpeg-height", "bmp-width"],
)
def test_image_without_pixels_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="no pixels"):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        png(60000, 60000, 8, 2, b""),
        png(60000, 60000, 16, 0, b""),
        png(10000, 10000, 8, 0, b""),
        with_jpeg_size(encoded(smooth(), "JPEG"), 60000, 60000),
        with_jpeg_size(encoded(smooth(), "JPEG", exif=orientation(6)), 60000, 60000),
        with_jpeg_size(saved(Image.new("CMYK", (8, 8)), "JPEG"), 60000, 60000),
        with_bmp_size(encoded(smooth(), "BMP"), 60000, 60000),
    ],
    ids=["png", "png-16", "png-100-MP", "jpeg", "jpeg-exif", "jpeg-cmyk", "bmp"],
)
def test_huge_image_is_refused_by_its_header(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Image.Image) -> None:
        pytest.fail("the pixels were asked for")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    monkeypatch.setattr("simplejpeg.decode_jpeg", load)
    with pytest.raises(InvalidInput, match=r"image is too large: (60000x60000|10000x10000) is"):
        decode(data)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_pixel_limit_is_inclusive(file_format: str) -> None:
    data = encoded(smooth(), file_format)
    assert decode(data, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(InvalidInput, match=f"{WIDTH}x{HEIGHT} is 960 pixels, the limit is 959"):
        decode(data, max_pixels=HEIGHT * WIDTH - 1)


def test_pixel_limit_above_pillows_own_is_honoured() -> None:
    # 200 million pixels, over Pillow's limit for the process; the data ends at once.
    with pytest.raises(InvalidInput, match="cannot decode"):
        decode(png(20000, 10000, 1, 0, b"\x00")[:60], max_pixels=300_000_000)


@pytest.mark.parametrize(
    ("file_format", "start"), [("GIF", b"GIF8"), ("TIFF", b"II*"), ("PPM", b"P6"), ("ICO", b"\0\0")]
)
def test_other_formats_are_refused_by_their_first_bytes(file_format: str, start: bytes) -> None:
    data = saved(Image.fromarray(smooth()), file_format)
    assert data.startswith(start)
    with pytest.raises(InvalidInput) as refusal:
        decode(data)
    assert "expected JPEG, PNG, WEBP, BMP" in str(refusal.value)
    assert start.hex(" ") in str(refusal.value)


@pytest.mark.parametrize("data", [b"\xff", b"\xff\xd8", b"hello", b"\x00" * 100, b"RIFF", b"BM"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=data[:8].hex(" ")):
        decode(data)


def fuzz_seeds() -> list[bytes]:
    image = Image.fromarray(noise(1, 12, 20))
    exif = orientation(6)
    exif[0x010F] = "maker"
    exif[0x011A] = 72.0
    return [
        saved(image, "JPEG"),
        saved(image, "JPEG", exif=exif),
        saved(image, "JPEG", progressive=True),
        saved(image.convert("CMYK"), "JPEG"),
        saved(image, "PNG", exif=exif),
        saved(image.convert("P"), "PNG", transparency=bytes(range(256))),
        saved(image.convert("LA"), "PNG"),
        encoded(np.arange(240, dtype=np.uint16).reshape(12, 20), "PNG"),
        saved(image, "WEBP"),
        saved(image, "WEBP", lossless=True, exif=exif),
        saved(image, "BMP"),
        saved(image.convert("P"), "BMP"),
    ]


def mutated(data: bytes, chance: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 10])):
        # Headers, where the structure is, are hit more often than pixel data.
        position = chance.randrange(min(len(result), chance.choice([60, 200, len(result)])))
        match chance.randrange(5):
            case 0:
                result[position] = chance.randrange(256)
            case 1:
                result[position] ^= 1 << chance.randrange(8)
            case 2:
                del result[position : position + chance.randrange(1, 20)]
            case 3:
                result[position:position] = chance.randbytes(chance.randrange(1, 9))
            case _:
                worst = [b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\x00\x01\x00\x01"]
                result[position : position + 4] = chance.choice(worst)
        if not result:
            break
    return bytes(result)


def with_valid_checksums(data: bytes) -> bytes:
    """A damaged PNG whose chunks pass their check, so that the damage gets past it."""
    result = bytearray(data)
    position = 8
    while position + 12 <= len(result):
        end = position + 8 + struct.unpack_from(">I", result, position)[0]
        if end + 4 > len(result):
            break
        struct.pack_into(">I", result, end, zlib.crc32(result[position + 4 : end]))
        position = end + 4
    return bytes(result)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("index", range(len(fuzz_seeds())))
def test_damaged_files_decode_or_are_invalid_input(index: int) -> None:
    original, chance = fuzz_seeds()[index], random.Random(index)
    refused = 0
    for _ in range(300):
        damaged = mutated(original, chance)
        if damaged.startswith(b"\x89PNG") and chance.random() < 0.8:
            damaged = with_valid_checksums(damaged)
        try:
            pixels = decode(damaged, max_pixels=1_000_000)
        except InvalidInput:
            refused += 1
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
    assert refused > 0


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


def test_image_of_the_wanted_size_stays_untouched() -> None:
    image = noise()
    kept = transform(image, EvalTransform(resize=(HEIGHT, WIDTH)))
    assert np.array_equal(kept, image)


def test_shorter_side_is_resized_and_the_centre_cut_out() -> None:
    # 2 rows of 6 blocks, each 2x2 of one value: halved it is those values, cropped the middle two.
    values = np.arange(12, dtype=np.uint8).reshape(2, 6) * 20
    image = np.repeat(np.kron(values, np.ones((2, 2), np.uint8))[..., None], 3, axis=2)
    seen = transform(image, EvalTransform(resize=2, crop=(2, 2)))
    assert seen[..., 0].tolist() == [[40, 60], [160, 180]]
    turned = transform(image.transpose(1, 0, 2), EvalTransform(resize=2, crop=(2, 2)))
    assert turned[..., 0].tolist() == [[40, 160], [60, 180]]


@pytest.mark.parametrize("filter_name", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [(32, 32), (32, 50), (41, 20), (70, 40)])
@pytest.mark.parametrize(("height", "width"), [(75, 100), (60, 90), (200, 49), (64, 41), (20, 30)])
def test_crop_is_what_it_is_of_the_whole_resized_image(
    height: int, width: int, crop: tuple[int, int], filter_name: Any
) -> None:
    image = noise(1, height, width) // 2 + 64
    whole = transform(image, EvalTransform(resize=48, filter=filter_name))
    seen = transform(image, EvalTransform(resize=48, crop=crop, filter=filter_name))
    expected = transform(whole, EvalTransform(resize=whole.shape[:2], crop=crop))
    assert seen.shape == expected.shape == (*crop, 3)
    difference = np.abs(seen.astype(int) - expected)
    # "area" may be off by a sixteenth of a source pixel, which shows in noise; Pillow's rounds.
    assert difference.max() <= (8 if filter_name == "area" else 1)
    assert difference.mean() < 0.5


def test_pair_stretches_whatever_the_aspect_ratio() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:] = 200
    seen = transform(image, EvalTransform(resize=(2, 2)))
    assert seen[..., 1].tolist() == [[0, 200], [0, 200]]


def test_area_filter_averages_the_pixels_below_each_target_pixel() -> None:
    image = noise(3, 6, 9)
    seen = transform(image, EvalTransform(resize=(2, 3), filter="area"))
    average = image.astype(np.float64).reshape(2, 3, 3, 3, 3).mean(axis=(1, 3))
    assert seen.shape == (2, 3, 3)
    assert np.abs(seen - average).max() <= 0.51


def test_area_filter_weighs_pixels_that_it_cuts() -> None:
    row = np.array([30, 90, 180], np.uint8)
    image = np.repeat(row[None, :, None], 3, axis=2).repeat(2, axis=0)
    seen = transform(image, EvalTransform(resize=(2, 2), filter="area"))
    # Each target pixel is 1.5 source pixels wide: (30 + 90/2) / 1.5 and (90/2 + 180) / 1.5.
    assert seen[0, :, 0].tolist() == [50, 150]


@pytest.mark.parametrize("size", [(7, 11), (24, 13), (60, 90), (100, 17)])
@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_pillow_filters_equal_torchvisions_resize(name: str, size: tuple[int, int]) -> None:
    image = noise(4)
    expected = torchvision.resize(
        Image.fromarray(image), list(size), interpolation=InterpolationMode(name)
    )
    seen = transform(image, EvalTransform.model_validate({"resize": size, "filter": name}))
    assert np.array_equal(seen, np.asarray(expected))


@pytest.mark.parametrize("name", ["area", "bilinear", "bicubic"])
def test_flat_image_stays_flat_under_every_filter(name: str) -> None:
    flat = np.full((10, 20, 3), (12, 130, 250), np.uint8)
    wanted = EvalTransform.model_validate({"resize": 32, "crop": (32, 32), "filter": name})
    assert np.array_equal(transform(flat, wanted), np.full((32, 32, 3), (12, 130, 250)))


@pytest.mark.parametrize("name", ["area", "bilinear"])
def test_enlarging_interpolates_between_pixels(name: str) -> None:
    image = np.repeat(np.array([[0, 100]], np.uint8)[..., None], 3, axis=2)
    wanted = EvalTransform.model_validate({"resize": (1, 4), "filter": name})
    # Target centres lie at -1/4, 1/4, 3/4 and 5/4 of the way from the first pixel to the second.
    assert transform(image, wanted)[0, :, 0].tolist() == [0, 25, 75, 100]


def test_crop_larger_than_the_image_gets_a_black_edge() -> None:
    image = np.full((2, 4, 3), 9, np.uint8)
    seen = transform(image, EvalTransform(resize=(2, 4), crop=(4, 2)))
    assert seen[..., 0].tolist() == [[0, 0], [9, 9], [9, 9], [0, 0]]


def test_crop_larger_on_both_sides_keeps_every_pixel() -> None:
    image = noise(5, 3, 2)
    seen = transform(image, EvalTransform(resize=(3, 2), crop=(6, 8)))
    assert np.array_equal(seen[1:4, 3:5], image)
    assert seen.sum() == image.sum()


@pytest.mark.parametrize("name", ["area", "bilinear", "bicubic"])
def test_single_pixel_fills_what_the_network_sees(name: str) -> None:
    image = np.array([[[1, 2, 3]]], np.uint8)
    wanted = EvalTransform.model_validate({"resize": 8, "crop": (8, 8), "filter": name})
    assert np.array_equal(transform(image, wanted), np.full((8, 8, 3), (1, 2, 3)))


@pytest.mark.parametrize(("height", "width"), [(1, 9000), (9000, 1), (3, 40_000), (40_000, 2)])
@pytest.mark.parametrize("name", ["area", "bilinear", "bicubic"])
def test_extreme_aspect_ratio_gives_the_wanted_size(height: int, width: int, name: str) -> None:
    image = np.full((height, width, 3), 77, np.uint8)
    wanted = EvalTransform.model_validate({"resize": 8, "crop": (8, 8), "filter": name})
    assert np.array_equal(transform(image, wanted), np.full((8, 8, 3), 77))


@pytest.mark.parametrize(("height", "width"), [(8, 3), (3, 8)])
def test_long_side_is_rounded_to_the_nearest_pixel(height: int, width: int) -> None:
    # 8 / 3 is 2.67: with two pixels, the crop of three would have a black edge.
    crop = (3, 1) if height > width else (1, 3)
    image = np.full((height, width, 3), 50, np.uint8)
    assert (transform(image, EvalTransform(resize=1, crop=crop)) == 50).all()


@pytest.mark.parametrize(("height", "width"), [(1, 600_000), (600_000, 1)])
def test_sliver_that_resizing_would_blow_up_is_refused(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    with pytest.raises(InvalidInput, match=f"too long and thin: {width}x{height} becomes"):
        transform(image, EvalTransform(resize=224, crop=(224, 224)))


def test_file_is_decoded_and_transformed_in_one_call() -> None:
    wanted = EvalTransform(resize=12, crop=(12, 12), filter="bilinear")
    data = encoded(noise(), "PNG")
    assert np.array_equal(load_image(data, wanted).pixels, transform(noise(), wanted))


@pytest.mark.parametrize(
    ("resize", "crop", "kept"),
    [
        ((40, 60), None, True),
        (40, (40, 60), True),
        ((40, 60), (40, 50), False),
        ((40, 50), None, False),
        (41, (40, 60), False),
    ],
)
def test_images_that_are_kept_are_those_that_transform_gives_back(
    resize: int | tuple[int, int], crop: tuple[int, int] | None, kept: bool
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    eval_transform = EvalTransform(resize=resize, crop=crop)
    assert keeps(40, 60, 3, eval_transform) is kept
    assert np.array_equal(transform(image, eval_transform), image) is kept


def photo(height: int, width: int) -> Pixels:
    """Soft areas with a little noise, as the many pixels of a camera show them."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (height // 80, width // 80, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noisy = smooth + rng.integers(-6, 7, (height, width, 1))
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("filter_name", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("turned", [None, 1, 6])
@pytest.mark.parametrize(("height", "width"), [(401, 603), (803, 1101)])
def test_large_jpeg_is_reduced_while_decoded_and_looks_the_same(
    height: int, width: int, turned: int | None, filter_name: Any
) -> None:
    wanted = EvalTransform(resize=50, crop=(48, 48), filter=filter_name)
    exif = {} if turned is None else {"exif": orientation(turned)}
    data = encoded(STORED[turned or 1](photo(height, width)), "JPEG", quality=95, **exif)
    whole = decode(data)
    loaded = load_image(data, wanted)
    assert loaded.size == whole.shape[:2] == (height, width)
    expected = transform(whole, wanted)
    assert loaded.pixels.shape == expected.shape
    difference = np.abs(loaded.pixels.astype(int) - expected)
    # Another way to the same image: not the full decode, and not visibly different from it.
    assert 0 < difference.mean() < 1


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP"])
def test_other_large_files_are_decoded_in_full(file_format: str) -> None:
    wanted = EvalTransform(resize=50)
    data = encoded(photo(401, 603), file_format)
    assert np.array_equal(load_image(data, wanted).pixels, transform(decode(data), wanted))


@pytest.mark.parametrize(("side", "factor"), [(199, 1), (200, 2), (399, 2), (400, 4), (1600, 8)])
def test_reduction_leaves_twice_what_is_wanted(side: int, factor: int) -> None:
    data = encoded(photo(side, side), "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (side // factor, side // factor))
        reduced = np.asarray(image)
    wanted = EvalTransform(resize=(50, 50))
    assert np.array_equal(load_image(data, wanted).pixels, transform(reduced, wanted))
