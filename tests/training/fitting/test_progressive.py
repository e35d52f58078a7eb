"""Progressive learning: images grow with the epochs, in steps that networks can halve."""

import pytest
import torch
from torch import nn

from training.errors import RecipeError
from training.fitting.progressive import check_progressive, shrunk, size_at
from training.recipes.train import Progressive


@pytest.mark.parametrize(
    ("whole", "sizes"),
    [
        ((32, 32), [(16, 16), (24, 24), (24, 24), (32, 32)]),
        ((224, 224), [(128, 128), (160, 160), (192, 192), (224, 224)]),
        ((96, 64), [(48, 32), (64, 48), (80, 48), (96, 64)]),
        ((28, 28), [(16, 16), (20, 20), (24, 24), (28, 28)]),
    ],
)
def test_images_grow_to_their_size(whole: tuple[int, int], sizes: list[tuple[int, int]]) -> None:
    config = Progressive(start=0.5, until=0.5)
    found = [size_at(config, epoch, 12, whole) for epoch in (0, 2, 4, 6)]
    assert found == sizes
    assert size_at(config, 11, 12, whole) == whole


def test_masks_follow_their_images_and_labels_stay() -> None:
    images = torch.zeros(2, 3, 16, 16)
    images[:, :, :8] = 1
    masks = images[:, 0].long()
    small, followed = shrunk(images, masks, (8, 8))
    assert small.shape == (2, 3, 8, 8)
    assert torch.equal(followed, (small[:, 0] > 0.5).long())
    _, labels = shrunk(images, torch.tensor([0, 1]), (8, 8))
    assert labels.tolist() == [0, 1]
    same, _ = shrunk(images, masks, (16, 16))
    assert same is images


def test_a_network_that_takes_one_size_is_refused() -> None:
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).train()
    with pytest.raises(RecipeError, match=r"^train\.progressive: the network takes no images of"):
        check_progressive(fixed, Progressive(), 3, (32, 32))
    assert fixed.training
    any_size = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    check_progressive(any_size, Progressive(), 3, (32, 32))
