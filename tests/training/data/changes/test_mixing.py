"""Mixed images carry the classes of both, in proportion."""

import pytest
import torch

from training.data.changes.mixing import mix

# Image i is all i, so a pixel says where it comes from.
IMAGES = torch.arange(1, 5, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 6, 6, 3) * 10
LABELS = torch.tensor([0, 1, 2, 0])


def test_mixup_blends_pixels_and_classes_alike() -> None:
    torch.manual_seed(1)
    images, targets = mix(IMAGES, LABELS, 3, mixup_alpha=1.0, cutmix_alpha=None)
    share = targets[1, 1].item()
    assert 0 < share < 1
    assert targets[1].tolist() == [pytest.approx(1 - share), pytest.approx(share), 0]
    assert torch.allclose(images[1], torch.full((6, 6, 3), 20 * share + 10 * (1 - share)))


def test_cutmix_weighs_classes_by_area() -> None:
    torch.manual_seed(3)
    images, targets = mix(IMAGES, LABELS, 3, mixup_alpha=None, cutmix_alpha=1.0)
    kept = (images[2] == 30).float().mean().item()
    assert 0 < kept < 1
    assert ((images[2] == 30) | (images[2] == 20)).all()
    assert targets[2].tolist() == [0, pytest.approx(1 - kept), pytest.approx(kept)]


def test_with_both_each_batch_takes_one() -> None:
    torch.manual_seed(0)
    ways = set()
    for _ in range(20):
        images, _ = mix(IMAGES, LABELS, 3, mixup_alpha=1.0, cutmix_alpha=1.0)
        ways.add("cutmix" if (images == images.round()).all() else "mixup")
    assert ways == {"cutmix", "mixup"}
