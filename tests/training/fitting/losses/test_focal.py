"""Focal losses against values worked out by hand."""

import math

import pytest
import torch

from training.fitting.losses.classes import binary_cross_entropy, cross_entropy
from training.fitting.losses.focal import binary_focal, focal


def test_without_focus_it_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 3, 2, 2), torch.randint(0, 3, (6, 2, 2))
    assert focal(logits, targets, gamma=0.0).item() == pytest.approx(
        cross_entropy(logits, targets).item()
    )
    assert binary_focal(logits, targets, gamma=0.0, alpha=0.5).item() == pytest.approx(
        binary_cross_entropy(logits, targets).item() / 2
    )


def test_focal_by_hand() -> None:
    # p = 1/4: (3/4)² log 4.
    loss = focal(torch.zeros(1, 4), torch.tensor([2]), gamma=2.0)
    assert loss.item() == pytest.approx(9 / 16 * math.log(4))


def test_binary_focal_by_hand() -> None:
    # p = 1/2 for the class and for the rest: (1/2)² log 2, weighed 0.25 and 0.75.
    loss = binary_focal(torch.zeros(2, 1), torch.tensor([1, 0]), gamma=2.0, alpha=0.25)
    assert loss.item() == pytest.approx((0.25 + 0.75) / 2 * math.log(2) / 4)


def test_easy_pixel_counts_less_than_in_cross_entropy() -> None:
    logits, targets = torch.tensor([[3.0, 0.0]]), torch.tensor([0])
    assert focal(logits, targets) < cross_entropy(logits, targets) / 100


def test_sure_answer_has_a_finite_gradient() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    focal(logits, torch.tensor([0]), gamma=0.5).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
