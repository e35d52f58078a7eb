"""Files that are cut, corrupt, too large or no images are refused, and never worse than that."""

import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from serving.base.errors import InvalidInput
from serving.images.decoding import decode
from tests.support.pictures import encoded, exif, noise, png, smooth

HEIGHT, WIDTH = 24, 40


def with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    """A baseline JPEG whose frame header claims another size."""
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def with_bmp_size(data: bytes, width: int, height: int) -> bytes:
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def test_empty_file_is_refused_as_empty() -> None:
    with pytest.raises(InvalidInput, match=r"image is empty \(0 bytes\)"):
        decode(b"")


@pytest.mark.parametrize("turned", [None, 6], ids=["plain", "rotated"])
@pytest.mark.parametrize("kept", [3, 4, 20, 0.3, 0.6, 0.95, -2])
def test_truncated_jpeg_is_refused(kept: float, turned: int | None) -> None:
    options = {} if turned is None else {"exif": exif(turned)}
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
        with_jpeg_size(encoded(smooth(), "JPEG", exif=exif(6)), 60000, 60000),
        with_jpeg_size(encoded(Image.new("CMYK", (8, 8)), "JPEG"), 60000, 60000),
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
    data = encoded(Image.fromarray(smooth()), file_format)
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
    tags = Image.Exif()
    tags[0x010F], tags[0x0112], tags[0x011A] = "maker", 6, 72.0
    return [
        encoded(image, "JPEG"),
        encoded(image, "JPEG", exif=tags),
        encoded(image, "JPEG", progressive=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "PNG", exif=tags),
        encoded(image.convert("P"), "PNG", transparency=bytes(range(256))),
        encoded(image.convert("LA"), "PNG"),
        encoded(np.arange(240, dtype=np.uint16).reshape(12, 20), "PNG"),
        encoded(image, "WEBP"),
        encoded(image, "WEBP", lossless=True, exif=tags),
        encoded(image, "BMP"),
        encoded(image.convert("P"), "BMP"),
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
