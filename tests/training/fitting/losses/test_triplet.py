"""Triplet loss on points of a circle, whose distances are known."""

import math

import pytest
import torch
from torch import Tensor

from training.fitting.losses.triplet import triplet

LABELS = torch.tensor([0, 0, 1, 1])


def at(*degrees: float) -> Tensor:
    angles = torch.tensor([math.radians(angle) for angle in degrees])
    return torch.stack((angles.cos(), angles.sin()), dim=1)


def squared_distance(degrees: float) -> float:
    return 2 - 2 * math.cos(math.radians(degrees))


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
def test_classes_far_apart_cost_nothing(mining: str) -> None:
    embeddings = at(0, 5, 180, 185)
    assert triplet(embeddings, LABELS, mining=mining).item() == 0  # type: ignore[arg-type]


def test_hard_takes_the_nearest_of_the_others() -> None:
    # From 0°: own 90°, nearest other 60°; from 90°: 30°; from 60°: own 80°, other 30°;
    # from 140°: own 80°, other 50°.
    margin = 0.5
    pairs = [(90, 60), (90, 30), (80, 30), (80, 50)]
    expected = sum(squared_distance(p) - squared_distance(n) + margin for p, n in pairs) / 4
    loss = triplet(at(0, 90, 60, 140), LABELS, margin=margin, mining="hard")
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_semi_hard_takes_the_nearest_that_is_farther() -> None:
    # From 0°: own 90°, of 60° and 140° only the latter is farther; from 90° none of 30° and 50° is,
    # so the farthest; from 60°: own 80°, others 60° and 30°; from 140°: own 80°, others 140°, 50°.
    margin = 2.0
    pairs = [(90, 140), (90, 50), (80, 60), (80, 140)]
    expected = sum(squared_distance(p) - squared_distance(n) + margin for p, n in pairs) / 4
    loss = triplet(at(0, 90, 60, 140), LABELS, margin=margin, mining="semi_hard")
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0]])
def test_batch_without_a_triplet_gives_no_gradient(mining: str, labels: list[int]) -> None:
    embeddings = at(0, 90, 60, 140).requires_grad_()
    loss = triplet(embeddings, torch.tensor(labels), mining=mining)  # type: ignore[arg-type]
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


def test_length_of_an_embedding_does_not_count() -> None:
    embeddings = at(0, 90, 60, 140)
    longer = embeddings * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert triplet(longer, LABELS).item() == pytest.approx(triplet(embeddings, LABELS).item())
