"""A file becomes what a network sees in one call: large ones are reduced while they are decoded."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from serving.images.decoding import Pixels, decode
from serving.images.preprocess import keeps, load_image, transform
from serving.repository.manifest import EvalTransform
from tests.support.pictures import STORED, encoded, exif, noise

HEIGHT, WIDTH = 24, 40


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
    options = {} if turned is None else {"exif": exif(turned)}
    data = encoded(STORED[turned or 1](photo(height, width)), "JPEG", quality=95, **options)
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
