"""The embedded digits: format, split and determinism."""

import numpy as np
import pytest

from training.data.sources.digits import CLASSES, IMAGE_SIZE, load_digits_split


def test_images_are_uint8_rgb_of_grey_strokes_over_the_full_range() -> None:
    images, labels = load_digits_split("val")
    assert images.dtype == np.uint8
    assert images.shape == (len(labels), IMAGE_SIZE, IMAGE_SIZE, 3)
    assert labels.dtype == np.int64
    assert images.min() == 0
    assert images.max() == 255
    assert np.array_equal(images[..., 0], images[..., 1])
    assert np.array_equal(images[..., 0], images[..., 2])


def test_splits_are_disjoint_and_together_all_digits() -> None:
    splits = [load_digits_split(name)[0] for name in ("train", "val", "test")]
    assert sum(len(images) for images in splits) == 1797
    assert len(splits[2]) >= 360
    distinct = {image.tobytes() for images in splits for image in images}
    assert len(distinct) == 1797


def test_every_class_has_its_share_of_each_split() -> None:
    counts = [np.bincount(load_digits_split(name)[1]) for name in ("train", "val", "test")]
    shares = np.stack(counts) / np.sum(counts, axis=0)
    assert shares.shape == (3, len(CLASSES))
    assert np.allclose(shares, [[0.7], [0.1], [0.2]], atol=0.01)


def test_split_depends_on_the_seed_alone() -> None:
    first, again, other = (load_digits_split("test", seed=seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be train, val or test, got 'valid'"):
        load_digits_split("valid")  # type: ignore[arg-type]
