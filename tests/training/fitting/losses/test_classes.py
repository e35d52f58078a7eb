"""Cross-entropies against values worked out by hand."""

import math

import pytest
import torch

from training.fitting.losses.classes import binary_cross_entropy, cross_entropy


def test_cross_entropy_of_equal_logits_is_log_of_classes() -> None:
    loss = cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, 3]))
    assert loss.item() == pytest.approx(math.log(4))


def test_label_smoothing_mixes_the_target_with_all_classes() -> None:
    logits = torch.tensor([[2.0, 0.0]])
    log_probabilities = logits.log_softmax(dim=1)[0]
    expected = -(0.95 * log_probabilities[0] + 0.05 * log_probabilities[1])
    loss = cross_entropy(logits, torch.tensor([0]), label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected.item())


def test_class_weights_weigh_the_mean() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    first, second = -logits[0].log_softmax(dim=0)
    weights = torch.tensor([3.0, 1.0])
    expected = (3 * first + 1 * second) / 4
    for targets in (torch.tensor([0, 1]), torch.eye(2)):
        loss = cross_entropy(logits, targets, class_weights=weights)
        assert loss.item() == pytest.approx(expected.item())


def test_weights_of_ignored_pixels_are_not_in_the_mean() -> None:
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 0.0]]]).unsqueeze(0)
    loss = cross_entropy(
        logits, torch.tensor([[[0, 255]]]), class_weights=torch.tensor([3.0, 1.0]), ignore_index=255
    )
    assert loss.item() == pytest.approx(-torch.tensor([2.0, 0.0]).log_softmax(dim=0)[0].item())


def test_probabilities_of_one_class_are_that_class() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    soft = torch.nn.functional.one_hot(targets, 3).float()
    assert cross_entropy(logits, soft).item() == pytest.approx(
        cross_entropy(logits, targets).item()
    )


def test_binary_cross_entropy_asks_each_class_on_its_own() -> None:
    # σ(0) = 0.5 everywhere: log 2, whatever is true; a doubled positive adds half of log 2.
    logits, targets = torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])
    assert binary_cross_entropy(logits, targets).item() == pytest.approx(math.log(2))
    doubled = binary_cross_entropy(logits, targets, positive_weight=2.0)
    assert doubled.item() == pytest.approx(1.5 * math.log(2))


def test_positive_weight_is_not_rounded_with_the_logits() -> None:
    logits, targets = torch.zeros(1, 1, dtype=torch.bfloat16), torch.tensor([1])
    loss = binary_cross_entropy(logits, targets, positive_weight=1.001)
    assert loss.item() == pytest.approx(1.001 * math.log(2), rel=1e-5)


def test_binary_cross_entropy_of_a_single_logit_by_hand() -> None:
    logits = torch.tensor([[[[1.0, -2.0, 9.0]]]])
    loss = binary_cross_entropy(logits, torch.tensor([[[1, 0, 255]]]), ignore_index=255)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    assert loss.item() == pytest.approx(expected)
