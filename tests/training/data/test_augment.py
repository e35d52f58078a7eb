"""Augmentation moves masks with their images and draws from its generator only."""

import pytest
import torch
from torch import Tensor

from training.data.augment import augment
from training.recipe.data import Augment


def batch() -> tuple[Tensor, Tensor]:
    """Images whose red value is 40 times the class of the pixel, and those classes."""
    masks = torch.zeros(8, 20, 20, dtype=torch.uint8)
    masks[:, 5:12, 8:15] = 1
    masks[:, 12:16, 8:15] = 2
    images = torch.zeros(8, 20, 20, 3, dtype=torch.uint8)
    images[..., 0] = masks * 40
    return images, masks


def generator(seed: int = 0) -> torch.Generator:
    made = torch.Generator()
    made.manual_seed(seed)
    return made


def test_nothing_asked_changes_nothing() -> None:
    images, masks = batch()
    changed, moved = augment(images, masks, Augment(), generator())
    assert torch.equal(changed, images)
    assert torch.equal(moved, masks)


@pytest.mark.parametrize(
    "changes", [Augment(shift=3), Augment(flip=True), Augment(quarter_turns=True)]
)
def test_masks_follow_exactly_where_pixels_move_whole(changes: Augment) -> None:
    images, masks = augment(*batch(), changes, generator())
    assert torch.equal(images[..., 0], masks * 40)
    assert not torch.equal(masks, batch()[1])


def test_masks_follow_a_rotation_up_to_the_blurred_border() -> None:
    images, masks = augment(*batch(), Augment(rotate=30, scale=0.2), generator())
    assert masks.unique().tolist() == [0, 1, 2]
    assert (images[..., 0] == masks * 40).float().mean() > 0.8


def test_rotation_keeps_the_shape_of_oblong_images() -> None:
    images = torch.zeros(16, 20, 60, 3, dtype=torch.uint8)
    images[:, 6:14, 26:34] = 255
    turned, _ = augment(images, torch.zeros(16), Augment(rotate=90), generator())
    areas = (turned[..., 0] > 127).float().sum(dim=(1, 2))
    assert torch.allclose(areas, torch.tensor(64.0), atol=6)


def test_labels_are_left_alone() -> None:
    labels = torch.arange(8)
    _, kept = augment(batch()[0], labels, Augment(shift=2, flip=True), generator())
    assert torch.equal(kept, labels)


def test_brightness_stays_within_its_bound() -> None:
    images = torch.full((64, 4, 4, 3), 100, dtype=torch.uint8)
    changed, _ = augment(images, torch.zeros(64), Augment(brightness=0.2), generator())
    assert changed.min() >= 80
    assert changed.max() <= 120
    assert changed.unique().numel() > 5


def test_same_generator_same_change() -> None:
    changes = Augment(shift=3, rotate=10, scale=0.1, flip=True, brightness=0.1, contrast=0.1)
    first, _ = augment(*batch(), changes, generator(1))
    again, _ = augment(*batch(), changes, generator(1))
    other, _ = augment(*batch(), changes, generator(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
