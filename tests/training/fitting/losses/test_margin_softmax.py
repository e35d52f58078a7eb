"""Margins by hand, and centres that learn."""

import math

import pytest
import torch

from training.fitting.losses.margin_softmax import Kind, MarginSoftmax, with_margin


def test_arcface_adds_to_the_angle_of_the_own_class_only() -> None:
    cosines = torch.tensor([[math.cos(0.7), 0.1], [0.2, math.cos(1.1)]])
    lowered = with_margin(cosines, torch.tensor([0, 1]), "arcface", 0.5)
    expected = torch.tensor([[math.cos(1.2), 0.1], [0.2, math.cos(1.6)]])
    assert torch.allclose(lowered, expected, atol=1e-6)


def test_arcface_never_rises_with_the_angle() -> None:
    cosines = torch.linspace(1, -1, 101).unsqueeze(1)
    lowered = with_margin(cosines, torch.zeros(101, dtype=torch.int64), "arcface", 0.5)
    assert (lowered.diff(dim=0) < 0).all()


def test_cosface_takes_from_the_cosine() -> None:
    lowered = with_margin(torch.tensor([[0.6, 0.1]]), torch.tensor([0]), "cosface", 0.35)
    assert lowered.tolist() == [[pytest.approx(0.25), pytest.approx(0.1)]]


def test_without_margin_it_is_cross_entropy_of_scaled_cosines() -> None:
    loss = MarginSoftmax(2, 2, "arcface", margin=0.0, scale=4.0)
    with torch.no_grad():
        loss.weight.copy_(torch.eye(2))
    # Normalised: cosines 0.6 and 0.8.
    value = loss(torch.tensor([[3.0, 4.0]]), torch.tensor([1]))
    assert value.item() == pytest.approx(math.log(1 + math.exp(4 * (0.6 - 0.8))), rel=1e-4)


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_centres_turn_to_their_class(kind: Kind) -> None:
    torch.manual_seed(0)
    loss = MarginSoftmax(3, 4, kind, margin=0.3, scale=8.0)
    embeddings = torch.eye(4)[:3]
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        loss(embeddings, torch.arange(3)).backward()
        optimizer.step()
    assert (loss.weight[:, :3].argmax(dim=1) == torch.arange(3)).all()
