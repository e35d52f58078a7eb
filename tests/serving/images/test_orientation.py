"""The orientation in EXIF is undone, and damage to it harms no image."""

import struct

import numpy as np
import pytest
from PIL import Image

from serving.images.decoding import decode
from tests.support.pictures import STORED, encoded, exif, noise, smooth

HEIGHT, WIDTH = 24, 40


@pytest.mark.parametrize("value", STORED)
def test_exif_orientation_of_png_is_undone(value: int) -> None:
    upright = noise()
    data = encoded(STORED[value](upright), "PNG", exif=exif(value))
    assert np.array_equal(decode(data), upright)


@pytest.mark.parametrize("value", STORED)
def test_exif_orientation_of_jpeg_is_undone(value: int) -> None:
    upright = smooth()
    data = encoded(STORED[value](upright), "JPEG", quality=95, exif=exif(value))
    pixels = decode(data)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 4


def test_exif_orientation_behind_other_segments_of_a_jpeg_is_undone() -> None:
    data = encoded(STORED[6](smooth()), "JPEG", quality=95, exif=exif(6))
    # Three colour profiles of 60 KB, and a marker that is written twice.
    profiles = (b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000)) * 3
    pixels = decode(data[:2] + profiles + b"\xff" + data[2:])
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - smooth()).mean() < 4


def test_exif_orientation_behind_a_marker_without_length_is_undone() -> None:
    data = encoded(STORED[6](smooth()), "JPEG", quality=95, exif=exif(6))
    assert decode(data[:2] + b"\xff\xd0" + data[2:]).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("density", [{}, {"dpi": (72, 72)}])
def test_damaged_exif_of_a_jpeg_leaves_the_image_alone(density: dict[str, object]) -> None:
    data = encoded(smooth(), "JPEG", quality=95, exif=exif(1), **density)
    start = data.index(b"Exif") + 6
    damaged = data[:start] + b"\xff" * 8 + data[start + 8 :]
    assert np.array_equal(decode(damaged), decode(data))


def test_exif_orientation_of_webp_is_undone() -> None:
    upright = noise()
    data = encoded(STORED[6](upright), "WEBP", lossless=True, exif=exif(6))
    assert np.array_equal(decode(data), upright)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_exif_orientation_that_does_not_exist_leaves_the_image_alone(value: int) -> None:
    assert np.array_equal(decode(encoded(noise(), "PNG", exif=exif(value))), noise())


def test_exif_that_cannot_be_written_back_does_not_harm_the_image() -> None:
    tags = Image.Exif()
    tags[0x0112], tags[0x011A] = 6, 72.0
    block = tags.tobytes()
    # XResolution declared as text: readable, but no rational any more.
    entry = block.index(struct.pack(">HH", 0x011A, 5))
    broken = block[: entry + 2] + struct.pack(">H", 2) + block[entry + 4 :]
    data = encoded(STORED[6](noise()), "PNG", exif=broken)
    assert np.array_equal(decode(data), noise())


def test_multi_picture_jpeg_gives_its_first_picture_upright() -> None:
    first = Image.fromarray(np.ascontiguousarray(STORED[6](smooth())))
    second = Image.new("RGB", (WIDTH, HEIGHT))
    data = encoded(first, "MPO", save_all=True, append_images=[second], exif=exif(6), quality=95)
    pixels = decode(data)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - smooth()).mean() < 4
