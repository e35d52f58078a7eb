"""From a network's outputs to labels, masks and pictures."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from serving.base.errors import AnswerTooLarge
from serving.images import postprocess
from serving.images.postprocess import (
    binary_mask,
    class_areas,
    overlay_png,
    palette,
    palette_png,
    resize_mask,
    runs_of,
    softmax,
    top_k,
)

MASK = np.array([[0, 0, 1], [1, 1, 2]], np.uint8)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_softmax_of_logs_is_their_shares() -> None:
    scores = softmax(np.log(np.array([[1, 2, 5], [4, 4, 8]], np.float32)))
    assert scores.dtype == np.float32
    assert np.allclose(scores, [[0.125, 0.25, 0.625], [0.25, 0.25, 0.5]], atol=1e-6)


def test_softmax_equals_torchs() -> None:
    logits = np.random.default_rng(0).normal(0, 10, (5, 100)).astype(np.float32)
    expected = torch.softmax(torch.from_numpy(logits), dim=-1).numpy()
    assert np.allclose(softmax(logits), expected, atol=1e-6)


def test_softmax_of_large_logits_does_not_overflow() -> None:
    scores = softmax(np.array([1e30, 1e30, -1e30], np.float32))
    assert scores.tolist() == [0.5, 0.5, 0.0]


def test_softmax_works_along_the_last_axis_of_any_shape() -> None:
    logits = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    scores = softmax(logits)
    assert scores.shape == (2, 3, 4)
    assert np.allclose(scores.sum(axis=-1), 1, atol=1e-6)


def test_top_k_is_best_first_and_equal_scores_go_by_index() -> None:
    scores = np.array([[0.1, 0.3, 0.2, 0.3, 0.1], [0, 0, 0, 0, 1]], np.float32)
    assert top_k(scores, 4).tolist() == [[1, 3, 2, 0], [4, 0, 1, 2]]


@pytest.mark.parametrize("k", [1, 2, 5, 99, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_k_of_many_is_the_head_of_a_stable_sort(k: int, dtype: type) -> None:
    rng = np.random.default_rng(k)
    for levels in (3, 40, 10_000):  # from nearly all equal to hardly any
        scores: NDArray[np.floating[Any]] = rng.integers(0, levels, (3, 100)).astype(dtype)
        assert np.array_equal(top_k(scores, k), np.argsort(-scores, kind="stable")[:, :k])


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("more", [0, 100])
def test_top_k_puts_nan_behind_every_number(k: int, more: int) -> None:
    scores = np.array([np.nan, 0.1, np.nan, -np.inf, 0.3] + [np.nan] * more, np.float32)
    assert top_k(scores[np.newaxis], k).tolist() == [[4, 1, 3][:k]]
    assert top_k(np.full((1, 5 + more), np.nan, np.float32), k).tolist() == [[0, 1, 2][:k]]


@pytest.mark.parametrize("k", [3, 4, 1000])
def test_top_k_past_the_number_of_classes_gives_all(k: int) -> None:
    assert top_k(np.array([[1, 3, 2]], np.float32), k).tolist() == [[1, 2, 0]]


def test_mask_is_enlarged_by_repeating_its_pixels() -> None:
    enlarged = resize_mask(MASK, 4, 6)
    assert enlarged.dtype == np.uint8
    assert np.array_equal(enlarged, MASK.repeat(2, axis=0).repeat(2, axis=1))


def test_mask_resize_equals_pillows_nearest() -> None:
    mask = np.random.default_rng(2).integers(0, 5, (37, 23), np.uint8)
    for height, width in ((111, 69), (16, 50), (5, 7)):
        expected = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        assert np.array_equal(resize_mask(mask, height, width), np.asarray(expected))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mask_resize_keeps_type_and_makes_no_new_class(dtype: type[np.unsignedinteger]) -> None:
    highest = np.iinfo(dtype).max
    mask = np.array([[0, highest], [7, 0]], dtype)
    resized = resize_mask(mask, 33, 17)
    assert resized.dtype == dtype
    assert resized.shape == (33, 17)
    assert set(np.unique(resized)) == {0, 7, highest}


@pytest.mark.parametrize(("height", "width"), [(1, 40_000), (40_000, 1), (1, 1)])
def test_mask_resizes_to_extreme_images(height: int, width: int) -> None:
    resized = resize_mask(np.full((8, 8), 3, np.uint8), height, width)
    assert np.array_equal(resized, np.full((height, width), 3))


def test_mask_of_the_wanted_size_is_returned_as_it_is() -> None:
    assert resize_mask(MASK, 2, 3) is MASK


def whole_runs(mask: postprocess.Mask) -> NDArray[np.uint32]:
    return np.concatenate(list(runs_of(mask)))


def test_runs_go_along_rows_and_past_their_ends() -> None:
    runs = whole_runs(MASK)
    assert runs.dtype == np.uint32
    assert runs.tolist() == [0, 2, 1, 3, 2, 1]


@pytest.mark.parametrize("band", [1, 7, 50, 1000])
def test_runs_are_the_same_in_pieces_of_any_size(
    band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.random.default_rng(4).integers(0, 2, (13, 29), np.uint8)
    mask[4:9] = 1
    whole = whole_runs(mask)
    monkeypatch.setattr(postprocess, "BAND_PIXELS", band)
    assert np.array_equal(whole_runs(mask), whole)


def test_mask_of_one_class_is_one_run() -> None:
    assert whole_runs(np.full((300, 500), 9, np.uint16)).tolist() == [9, 150_000]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_runs_repeated_are_the_mask(dtype: type[np.unsignedinteger]) -> None:
    rng = np.random.default_rng(3)
    mask = rng.integers(0, np.iinfo(dtype).max, (13, 29), dtype=dtype, endpoint=True)
    mask[4:9] = 1
    classes, lengths = whole_runs(mask).reshape(-1, 2).T
    assert np.array_equal(np.repeat(classes, lengths), mask.reshape(-1))


def test_palette_is_black_for_the_background_and_distinct_for_all_else() -> None:
    colours = palette(256)
    assert colours.dtype == np.uint8
    assert colours.shape == (256, 3)
    assert colours[0].tolist() == [0, 0, 0]
    assert (colours[1:].max(axis=1) >= 180).all()
    assert len({tuple(colour) for colour in palette(21).tolist()}) == 21
    neighbours = np.abs(np.diff(colours[1:].astype(int), axis=0)).sum(axis=1)
    assert neighbours.min() > 60


def test_class_keeps_its_colour_whatever_the_number_of_classes() -> None:
    # Vectorised and plain conversion from HSV round differently.
    assert np.abs(palette(300)[:21].astype(int) - palette(21)).max() <= 1


def test_palette_png_holds_class_indices_and_their_colours() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with opened(palette_png(mask)) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        assert np.array_equal(np.asarray(image), mask)
        assert np.array_equal(np.asarray(image.convert("RGB")).reshape(-1, 3), palette(256))


def overlaid(image: NDArray[np.uint8], mask: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    with opened(overlay_png(image, mask)) as picture:
        return np.asarray(picture)


def test_overlay_leaves_the_background_and_blends_regions() -> None:
    image = np.full((9, 9, 3), 100, np.uint8)
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 2:7] = 1
    shown, colour = overlaid(image, mask), palette(256)[1]
    assert (shown[mask == 0] == 100).all()
    outline = mask.astype(bool)
    outline[3:6, 3:6] = False
    assert (shown[outline] == colour).all()
    blend = (100 * 0.5 + colour * 0.5).astype(np.uint8)
    assert (shown[3:6, 3:6] == blend).all()


@pytest.mark.parametrize("band", [1, 100, 1 << 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_overlay_in_bands_is_that_of_floating_point(
    band: int, dtype: type[np.unsignedinteger], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (40, 30, 3), np.uint8)
    mask = np.repeat(np.repeat(rng.integers(0, 3, (8, 6)), 5, 0), 5, 1).astype(dtype)
    colours = palette(256)[mask]
    shown = mask > 0
    expected = image.copy()
    expected[shown] = (image[shown] * 0.5 + colours[shown] * 0.5).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.morphologyEx(mask.astype(np.uint16), cv2.MORPH_GRADIENT, kernel) > 0
    expected[edge & shown] = colours[edge & shown]
    monkeypatch.setattr(postprocess, "BAND_PIXELS", band)
    assert np.array_equal(overlaid(image, mask), expected)


def test_pictures_larger_than_an_answer_are_given_up() -> None:
    noise = np.random.default_rng(6).integers(0, 255, (100, 100, 3), np.uint8)
    for draw in (
        lambda most: palette_png(noise[..., 0], most),
        lambda most: overlay_png(noise, noise[..., 0], most),
    ):
        size = len(draw(1 << 20))
        assert len(draw(size)) == size
        with pytest.raises(AnswerTooLarge, match="a picture has over"):
            draw(size - 1)


def test_overlay_does_not_change_the_image_it_is_given() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    shown = overlaid(image, np.ones((4, 4), np.uint8))
    assert (image == 100).all()
    assert (shown != 100).any()


def test_overlay_draws_classes_past_the_palette_of_a_png() -> None:
    mask = np.zeros((5, 5), np.uint16)
    mask[2, 2] = 999
    shown = overlaid(np.zeros((5, 5, 3), np.uint8), mask)
    assert shown[2, 2].tolist() == palette(1000)[999].tolist()


def test_areas_are_largest_first_with_share_and_mean_confidence() -> None:
    confidence = np.array([[255, 0, 51], [51, 102, 204]], np.uint8)
    areas = class_areas(MASK, confidence)
    assert [index for index, _, _ in areas] == [1, 0, 2]
    assert [share for _, share, _ in areas] == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    assert [mean for _, _, mean in areas] == pytest.approx([0.2 + 0.2 / 3, 0.5, 0.8])


def test_areas_of_equal_size_go_by_class_index() -> None:
    mask = np.array([[5, 2]], np.uint16)
    areas = class_areas(mask, np.array([[255, 255]], np.uint8))
    assert areas == [(2, 0.5, 1.0), (5, 0.5, 1.0)]


def test_probability_of_one_half_and_more_is_the_foreground() -> None:
    mask, confidence = binary_mask(np.array([[0, 127, 128, 255]], np.uint8))
    assert mask.tolist() == [[0, 0, 1, 1]]
    assert confidence.tolist() == [[255, 128, 128, 255]]
