"""Learning from a teacher: the distances, by hand, and who learns."""

import math

import pytest
import torch
from torch import Tensor, nn

from training.compress.distill import Distillation, cosine_distance, soft_divergence


def test_divergence_is_that_of_softened_answers_times_the_squared_temperature() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    # At T = 2 the teacher says 3/4 and 1/4, the student 1/2 and 1/2.
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert soft_divergence(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)
    pixels = student[:, :, None, None].expand(1, 2, 3, 3)
    taught = teacher[:, :, None, None].expand(1, 2, 3, 3)
    assert soft_divergence(pixels, taught, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_single_logit_stands_for_two_classes() -> None:
    one = soft_divergence(torch.tensor([[0.5]]), torch.tensor([[2.0]]), 1.0)
    two = soft_divergence(torch.tensor([[0.5, 0.0]]), torch.tensor([[2.0, 0.0]]), 1.0)
    assert one.item() == pytest.approx(two.item())


def test_embeddings_are_compared_by_their_direction() -> None:
    student = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert cosine_distance(student, teacher).item() == pytest.approx(0.5)


class Squared(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        return (outputs - targets).square().mean()


def test_teacher_counts_by_its_weight_and_learns_nothing() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    student = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    images, targets = torch.randn(4, 3, 1, 1), torch.zeros(4, 2)
    objective = Distillation(Squared(), teacher, temperature=3.0, weight=0.25).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    outputs = student(images)
    loss = objective(outputs, targets, images)
    with torch.no_grad():
        expected = 0.75 * outputs.square().mean() + 0.25 * soft_divergence(
            outputs, teacher(images), 3.0
        )
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
