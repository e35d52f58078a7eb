"""Rendered connectors: determinism, and masks that agree with geometry and image."""

import cv2
import numpy as np
import pytest

from training.data.sources.connectors import CLASSES, render, render_many
from training.data.sources.connectors.canvas import Canvas
from training.data.sources.connectors.shapes import SHAPES, Pose

SIZE = 64


def test_every_foreground_class_has_a_shape() -> None:
    assert CLASSES[0] == "background"
    assert set(CLASSES[1:]) == set(SHAPES)


def test_same_seed_gives_the_same_image_and_mask() -> None:
    for seed in range(20):
        image, mask = render(seed, SIZE)
        image_again, mask_again = render(seed, SIZE)
        assert np.array_equal(image, image_again)
        assert np.array_equal(mask, mask_again)


def test_different_seeds_give_different_images() -> None:
    images, _ = render_many(range(20), SIZE)
    assert len({image.tobytes() for image in images}) == 20


def test_images_and_masks_have_the_stated_format() -> None:
    images, masks = render_many(range(40), 80)
    assert images.shape == (40, 80, 80, 3)
    assert masks.shape == (40, 80, 80)
    assert images.dtype == masks.dtype == np.uint8
    assert set(np.unique(masks)) == set(range(len(CLASSES)))


def test_every_image_shows_background_and_at_least_one_connector() -> None:
    _, masks = render_many(range(100), SIZE)
    for mask in masks:
        assert (mask == 0).mean() > 0.3
        assert (mask > 0).mean() > 0.015


def test_classes_are_about_equally_frequent() -> None:
    _, masks = render_many(range(300), SIZE)
    seen = [np.mean([(mask == class_id).any() for mask in masks]) for class_id in range(1, 5)]
    assert min(seen) > 0.3
    assert max(seen) < 0.6


def test_mask_marks_the_pixels_whose_centre_lies_in_the_polygon() -> None:
    canvas = Canvas(np.zeros((32, 32, 3), dtype=np.uint8))
    triangle = np.array([(4.3, 3.1), (27.8, 9.4), (11.2, 28.6)])
    canvas.label(triangle, 2)
    _, mask = canvas.downsample()
    for row in range(32):
        for column in range(32):
            centre = (column + 0.5, row + 0.5)
            distance = cv2.pointPolygonTest(triangle.astype(np.float32), centre, True)
            # OpenCV also fills the samples that the border touches: half a sample is a sixth.
            if abs(distance) > 0.34:
                assert mask[row, column] == (2 if distance > 0 else 0)


def test_image_and_mask_of_a_polygon_agree() -> None:
    canvas = Canvas(np.zeros((48, 48, 3), dtype=np.uint8))
    square = np.array([(10.4, 8.2), (38.1, 12.6), (33.7, 40.3), (6.0, 35.9)])
    canvas.fill(square, (255, 255, 255))
    canvas.label(square, 1)
    image, mask = canvas.downsample()
    disagree = (image[..., 0] > 127) != (mask == 1)
    assert disagree.mean() < 0.01
    assert np.all(mask[image[..., 0] == 255] == 1)
    assert np.all(mask[image[..., 0] == 0] == 0)


def test_shapes_fill_the_areas_that_their_drawings_give() -> None:
    five_pixels_per_mm = np.array([[5.0, 0.0, 48.2], [0.0, 5.0, 48.2], [0.0, 0.0, 1.0]])
    pose = Pose(five_pixels_per_mm, depth=np.zeros(2))
    areas = {}
    for name, shape in SHAPES.items():
        canvas = Canvas(np.zeros((96, 96, 3), dtype=np.uint8))
        canvas.label(pose.project(shape.outline), 1)
        areas[name] = canvas.downsample()[1].sum() / 25
    assert areas["usb_a"] == pytest.approx(12.0 * 5.0 - 0.5**2 * (4 - np.pi), rel=0.04)
    assert areas["usb_b"] == pytest.approx(8.4 * 7.8 - 2.2 * 2.0, rel=0.04)
    assert areas["usb_c"] == pytest.approx((8.9 - 3.2) * 3.2 + np.pi * 1.6**2, rel=0.06)
    assert areas["micro_b"] == pytest.approx(7.4 * 1.5 + (7.4 + 5.0) / 2 * 1.5, rel=0.06)


def test_tongue_and_contacts_lie_inside_their_outline() -> None:
    for shape in SHAPES.values():
        outline = shape.outline.astype(np.float32)
        for part in (shape.tongue, *shape.contacts):
            for x, y in part:
                assert cv2.pointPolygonTest(outline, (x, y), True) > shape.shell_thickness / 2


def test_outlines_are_convex() -> None:
    for shape in SHAPES.values():
        assert cv2.isContourConvex(shape.outline.astype(np.float32))


def test_sizes_too_small_to_tell_contacts_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 32, got 16"):
        render(0, 16)
