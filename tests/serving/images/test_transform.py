"""Resizing and cropping, against blocks reckoned by hand and another library."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision

from serving.base.errors import InvalidInput
from serving.images.preprocess import transform
from serving.repository.manifest import EvalTransform
from tests.support.pictures import noise

HEIGHT, WIDTH = 24, 40


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
