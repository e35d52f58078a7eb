"""Distances of probabilities against values worked out by hand."""

import math

import pytest
import torch

from training.fitting.losses.classes import cross_entropy
from training.fitting.losses.probabilities import absolute, divergence, smooth_absolute, squared

# p = 1/4 of each class: errors 3/4 once and 1/4 three times.
LOGITS, TARGETS = torch.zeros(1, 4), torch.tensor([0])


def test_distances_of_even_odds_by_hand() -> None:
    assert absolute(LOGITS, TARGETS).item() == pytest.approx(6 / 16)
    assert squared(LOGITS, TARGETS).item() == pytest.approx(12 / 64)
    # β = 1/2: 3/4 - 1/4 for the large one, e² for each small one.
    expected = (1 / 2 + 3 / 16) / 4
    assert smooth_absolute(LOGITS, TARGETS, beta=0.5).item() == pytest.approx(expected)


def test_single_logit_is_a_sigmoids() -> None:
    assert absolute(torch.zeros(2, 1), torch.tensor([0, 1])).item() == pytest.approx(0.5)
    loss = divergence(torch.tensor([[1.0]]), torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_divergence_of_one_class_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert divergence(logits, targets).item() == pytest.approx(
        cross_entropy(logits, targets).item()
    )


def test_divergence_from_itself_is_nothing() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    assert divergence(logits, logits.softmax(dim=1)).item() == pytest.approx(0.0, abs=1e-6)
