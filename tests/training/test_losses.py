"""Losses against values worked out by hand."""

import math

import pytest
import torch

from training.losses import build_loss, cross_entropy, cross_entropy_dice, dice
from training.recipe.loss import CrossEntropy, CrossEntropyDice


def test_cross_entropy_of_equal_logits_is_log_of_classes() -> None:
    loss = cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, 3]))
    assert loss.item() == pytest.approx(math.log(4))


def test_label_smoothing_mixes_the_target_with_all_classes() -> None:
    logits = torch.tensor([[2.0, 0.0]])
    log_probabilities = logits.log_softmax(dim=1)[0]
    expected = -(0.95 * log_probabilities[0] + 0.05 * log_probabilities[1])
    loss = build_loss(CrossEntropy(label_smoothing=0.1))(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(expected.item())


def test_dice_is_nothing_for_a_sure_and_right_answer() -> None:
    targets = torch.tensor([[[0, 1], [1, 0]]])
    logits = torch.nn.functional.one_hot(targets, 2).permute(0, 3, 1, 2) * 100.0
    assert dice(logits, targets).item() == pytest.approx(0.0, abs=1e-6)


def test_dice_of_even_odds_by_hand() -> None:
    # Per class: p = 0.5 on 4 pixels, 2 of them true: 1 - (2 * 1 + 1) / (2 + 2 + 1).
    targets = torch.tensor([[[0, 1], [1, 0]]])
    assert dice(torch.zeros(1, 2, 2, 2), targets).item() == pytest.approx(0.4)


def test_ignored_pixels_change_no_loss() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    targets[0, 0] = 255
    changed = logits.clone()
    changed[0, :, 0] = 50.0
    loss = build_loss(CrossEntropyDice(name="cross_entropy_dice"), ignore_index=255)
    assert loss(logits, targets).item() == pytest.approx(loss(changed, targets).item())


def test_dice_weight_scales_its_part() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    total = cross_entropy_dice(logits, targets, dice_weight=2.0)
    assert total.item() == pytest.approx(
        (cross_entropy(logits, targets) + 2 * dice(logits, targets)).item()
    )


def test_batch_without_a_counted_pixel_gives_no_dice_gradient() -> None:
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = dice(logits, torch.full((1, 2, 2), 255), ignore_index=255)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
