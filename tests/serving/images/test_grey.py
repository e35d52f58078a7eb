"""Images of one channel: one rule for every file, and the same pixels whichever way they come."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from benchmarks.serving.decode_memory import SLACK, Case, measured
from serving.base.errors import InvalidInput
from serving.images.decoding import (
    Pixels,
    decode,
    decode_for,
    from_raw,
    use_jpeg_decoder,
    with_channels,
)
from serving.images.preprocess import keeps, load_image, transform
from serving.repository.manifest import EvalTransform
from tests.support.pictures import encoded, exif, smooth

PHOTO = smooth(120, 200)
# Files of colours, by each way through the decoders.
FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(PHOTO, "JPEG"),
    "progressive": lambda: encoded(PHOTO, "JPEG", progressive=True),
    "turned": lambda: encoded(PHOTO, "JPEG", exif=exif(6)),
    "jpeg of rgb": lambda: encoded(PHOTO, "JPEG", keep_rgb=True),
    "cmyk": lambda: encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "png": lambda: encoded(PHOTO, "PNG"),
    "png with alpha": lambda: encoded(Image.fromarray(PHOTO).convert("RGBA"), "PNG"),
    "palette": lambda: encoded(Image.fromarray(PHOTO).quantize(64), "PNG"),
    "webp": lambda: encoded(PHOTO, "WEBP", lossless=True),
    "bmp": lambda: encoded(PHOTO, "BMP"),
}
files = pytest.mark.parametrize("made", FILES.values(), ids=list(FILES))
GREY = PHOTO[:, :, 0]
Filter = Literal["area", "bilinear", "bicubic"]


def luma(colours: Pixels) -> Pixels:
    """ITU-R BT.601."""
    return np.rint(colours @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


@pytest.fixture
def no_other_decoder() -> Iterator[None]:
    yield
    use_jpeg_decoder(None)


@files
def test_colours_become_luma_within_two_levels(made: Callable[[], bytes]) -> None:
    data = made()
    grey = decode(data, channels=1)
    assert grey.shape == (*decode(data).shape[:2], 1)
    assert np.abs(grey[:, :, 0].astype(int) - luma(decode(data))).max() <= 2


@pytest.mark.parametrize("turned", [None, 6], ids=["upright", "turned"])
def test_photograph_is_the_luma_that_its_jpeg_holds(turned: int | None) -> None:
    """Saturated colours leave the range of RGB: what they had there is no part of the luma."""
    vivid = np.zeros((64, 64, 3), np.uint8)
    vivid[:, ::2, 2], vivid[::3, :, 0] = 255, 255
    plain = encoded(vivid, "JPEG", quality=40)
    data = encoded(vivid, "JPEG", quality=40, exif=exif(turned)) if turned else plain
    expected = simplejpeg.decode_jpeg(plain, colorspace="GRAY")
    found = decode(data, channels=1)
    assert np.array_equal(found, np.rot90(expected, -1) if turned else expected)


@pytest.mark.parametrize("file_format", ["PNG", "BMP"])
def test_grey_file_keeps_its_levels(file_format: str) -> None:
    assert np.array_equal(decode(encoded(GREY, file_format), channels=1)[:, :, 0], GREY)


def test_grey_jpeg_is_the_same_in_one_channel_and_in_three() -> None:
    data = encoded(GREY, "JPEG")
    assert np.array_equal(decode(data), np.repeat(decode(data, channels=1), 3, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_their_high_byte(channels: Literal[1, 3]) -> None:
    levels = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xABCD, 0xFF00, 0xFFFF]], np.uint16)
    expected = np.array([[0, 0, 1, 0x7F], [0x80, 0xAB, 0xFF, 0xFF]])
    found = decode(encoded(levels, "PNG"), channels=channels)
    assert np.array_equal(found, np.repeat(expected[:, :, None], channels, axis=2))
    whole = EvalTransform(resize=(2, 4), channels=channels)
    assert np.array_equal(load_image(encoded(levels, "PNG"), whole).pixels, found)


def test_one_bit_and_grey_with_alpha_are_black_white_and_their_grey() -> None:
    bits = encoded(Image.fromarray(GREY > 100), "PNG")
    assert np.array_equal(decode(bits, channels=1)[:, :, 0], np.where(GREY > 100, 255, 0))
    alpha = encoded(np.dstack([GREY, np.full_like(GREY, 9)]), "PNG")
    assert np.array_equal(decode(alpha, channels=1)[:, :, 0], GREY)


@pytest.mark.parametrize("name", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("resize", "crop"), [((24, 32), None), (40, (32, 50)), ((200, 300), None), (30, (64, 64))]
)
def test_grey_is_resized_as_each_of_three_channels(
    name: Filter, resize: int | tuple[int, int], crop: tuple[int, int] | None
) -> None:
    grey = EvalTransform(resize=resize, crop=crop, filter=name, channels=1)
    found = transform(GREY[:, :, None], grey)
    colour = transform(np.dstack([GREY] * 3), grey.model_copy(update={"channels": 3}))
    assert np.array_equal(found, colour[:, :, :1])
    data = encoded(GREY, "PNG")
    assert np.array_equal(load_image(data, grey).pixels, found)


def test_large_photograph_is_reduced_while_it_is_decoded() -> None:
    large = np.asarray(Image.fromarray(PHOTO).resize((1600, 960)))
    data = encoded(large, "JPEG")
    reduced = decode_for(data, lambda height, width: (60, 100), channels=1).pixels
    assert reduced.shape == (120, 200, 1)
    shown = EvalTransform(resize=(60, 100), channels=1)
    whole = transform(decode(data, channels=1), shown).astype(int)
    assert np.abs(load_image(data, shown).pixels - whole).mean() < 1


def test_decoder_of_colours_is_not_asked_for_grey(no_other_decoder: None) -> None:
    def refuse(_: bytes) -> Pixels | None:
        raise AssertionError("asked")

    use_jpeg_decoder(refuse)
    assert decode(FILES["jpeg"](), channels=1).shape == (120, 200, 1)


@files
def test_grey_reserves_less_than_colours(made: Callable[[], bytes]) -> None:
    grey, colour = list[int](), list[int]()
    decode(made(), reserve=lambda plan: grey.append(plan.peak), channels=1)
    decode(made(), reserve=lambda plan: colour.append(plan.peak))
    assert max(grey) < max(colour)
    grey.clear(), colour.clear()
    shown = EvalTransform(resize=(60, 90), filter="bicubic", channels=1)
    load_image(made(), shown, reserve=grey.append)
    load_image(made(), shown.model_copy(update={"channels": 3}), reserve=colour.append)
    assert max(grey) < max(colour)


@pytest.mark.parametrize(
    ("file_format", "name"), [("JPEG", "bilinear"), ("PNG", "area"), ("PNG", "bilinear")]
)
def test_measured_memory_of_grey_is_within_the_reserve(file_format: str, name: Filter) -> None:
    large = np.asarray(Image.fromarray(PHOTO).resize((2048, 2048)))
    shown = EvalTransform(resize=(1500, 1900), filter=name, channels=1)
    reserved, taken = measured(Case(file_format, encoded(large, file_format), shown))
    assert 0 < taken <= reserved + SLACK


def test_raw_grey_has_a_byte_a_pixel() -> None:
    assert from_raw(bytes(range(6)), 2, 3, channels=1).tolist() == [
        [[0], [1], [2]],
        [[3], [4], [5]],
    ]
    with pytest.raises(InvalidInput, match=r"3x2 needs 6 bytes \(grey, 8 bits\), got 18"):
        from_raw(bytes(18), 2, 3, channels=1)


def test_raw_pixels_are_converted_by_the_rule_for_files() -> None:
    assert np.array_equal(with_channels(PHOTO, 1), decode(encoded(PHOTO, "PNG"), channels=1))
    assert np.array_equal(with_channels(GREY[:, :, None], 3), decode(encoded(GREY, "PNG")))
    assert with_channels(PHOTO, 3) is PHOTO
    shown = EvalTransform(resize=(120, 200), channels=1)
    assert np.array_equal(transform(PHOTO, shown), with_channels(PHOTO, 1))
    assert keeps(120, 200, 1, shown)
    assert not keeps(120, 200, 3, shown)
