"""Every loss that a recipe can name: gradients, ignored pixels, soft targets, learning."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from training.fitting.losses import build_loss
from training.fitting.losses.classes import cross_entropy
from training.fitting.losses.regions import dice
from training.recipes.loss import Loss

LABELLED = ("cross_entropy", "bce", "focal", "binary_focal", "l1", "mse", "smooth_l1", "kl")
REGIONS = ("dice", "iou", "lovasz")
EMBEDDED = ("triplet", "arcface", "cosface")


def loss_of(name: str, **keys: Any) -> Loss:
    return TypeAdapter[Loss](Loss).validate_python({"name": name, **keys})


def pictures() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4), dtype=torch.uint8)


@pytest.mark.parametrize("name", LABELLED + REGIONS)
def test_ignored_pixels_change_no_loss(name: str) -> None:
    logits, targets = pictures()
    targets[:, 0] = 255
    changed = logits.clone()
    changed[:, :, 0] = 50.0
    loss = build_loss(loss_of(name), ignore_index=255)
    assert loss(logits, targets).item() == pytest.approx(loss(changed, targets).item())
    assert loss(logits[:, :, 1:], targets[:, 1:]).item() == pytest.approx(
        loss(logits, targets).item()
    )


@pytest.mark.parametrize("name", LABELLED + REGIONS)
def test_batch_without_a_counted_pixel_gives_no_gradient(name: str) -> None:
    logits = pictures()[0].requires_grad_()
    loss = build_loss(loss_of(name), ignore_index=255)(logits, torch.full((2, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", LABELLED + REGIONS)
def test_steps_against_the_gradient_find_the_classes(name: str) -> None:
    logits, targets = pictures()
    logits.requires_grad_()
    loss = build_loss(loss_of(name))
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits, targets).backward()
        optimizer.step()
    assert (logits.argmax(dim=1) == targets).all()


@pytest.mark.parametrize("name", ["bce", "binary_focal", "l1", "mse", "smooth_l1", "kl", *REGIONS])
def test_steps_against_the_gradient_find_what_a_single_logit_says(name: str) -> None:
    logits, targets = pictures()
    logits = logits[:, :1].clone().requires_grad_()
    loss = build_loss(loss_of(name), ignore_index=2)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits, targets).backward()
        optimizer.step()
    said = logits[:, 0] > 0
    assert (said[targets != 2] == (targets[targets != 2] == 1)).all()


@pytest.mark.parametrize("name", LABELLED)
def test_probabilities_of_one_class_are_that_class(name: str) -> None:
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    loss = build_loss(loss_of(name))
    soft = torch.nn.functional.one_hot(targets, 3).float()
    assert loss(logits, soft).item() == pytest.approx(loss(logits, targets).item())


@pytest.mark.parametrize("name", EMBEDDED)
def test_steps_against_the_gradient_gather_a_class(name: str) -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(8, 4, requires_grad=True)
    labels = torch.arange(8) % 2
    loss = build_loss(loss_of(name), classes=2, dimensions=4)
    optimizer = torch.optim.Adam([embeddings, *loss.parameters()], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss(embeddings, labels).backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(embeddings.detach(), dim=1)
    cosines = unit @ unit.T
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    assert cosines[same].min() > cosines[~same].max()


def test_sum_adds_its_parts_by_weight() -> None:
    logits, targets = pictures()
    total = build_loss(
        loss_of(
            "sum",
            terms=[
                {"weight": 0.5, "loss": {"name": "cross_entropy"}},
                {"weight": 2.0, "loss": {"name": "dice"}},
            ],
        )
    )
    expected = 0.5 * cross_entropy(logits, targets) + 2 * dice(logits, targets)
    assert total(logits, targets).item() == pytest.approx(expected.item())


def test_parts_of_a_sum_have_class_weights_of_their_own() -> None:
    logits, targets = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    asked = ([3.0, 1.0], None, [1.0, 5.0])
    terms = [{"loss": {"name": "cross_entropy", "class_weights": weights}} for weights in asked]
    total = build_loss(
        loss_of("sum", terms=terms),
        class_weights=lambda config: config.class_weights,  # type: ignore[arg-type,return-value]
    )
    expected = sum(
        cross_entropy(
            logits, targets, class_weights=None if weights is None else torch.tensor(weights)
        ).item()
        for weights in asked
    )
    assert total(logits, targets).item() == pytest.approx(expected)


def test_half_precision_logits_are_summed_in_full() -> None:
    logits, targets = pictures()
    for name in LABELLED + REGIONS:
        assert build_loss(loss_of(name))(logits.bfloat16(), targets).dtype == torch.float32
