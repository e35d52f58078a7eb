"""What the optimiser is given."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from training.fitting.optimizer import build_optimizer
from training.recipes.optimizer import Optimizer, Sgd


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))


def config(name: str, **keys: Any) -> Optimizer:
    return TypeAdapter[Optimizer](Optimizer).validate_python({"name": name, **keys})


def test_biases_and_norm_layers_do_not_decay() -> None:
    optimizer = build_optimizer(network(), Sgd(name="sgd", lr=0.1, weight_decay=0.5))
    decayed, free = optimizer.param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert decayed["weight_decay"] == 0.5
    assert {p.ndim for p in free["params"]} == {1}
    assert free["weight_decay"] == 0.0


def test_backbone_has_its_own_rate() -> None:
    layers = network()
    centres = nn.Parameter(torch.zeros(2, 2))
    optimizer = build_optimizer(layers, config("adamw", lr=0.1, backbone_lr_factor=0.1), [centres])
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    head = [*layers[3].parameters(), centres]
    assert all(rates[id(p)] == 0.1 for p in head)
    assert {rates[id(p)] for p in layers[:3].parameters()} == {0.1 * 0.1}
    assert len(rates) == len(list(layers.parameters())) + 1
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("name", "lr"),
    [("sgd", 0.1), ("adam", 0.1), ("adamw", 0.1), ("adagrad", 0.3), ("rmsprop", 0.03),
     ("adadelta", 10.0)],
)  # fmt: skip
def test_every_optimizer_makes_a_loss_small(name: str, lr: float) -> None:
    layers = network()
    images, targets = torch.randn(16, 3, 3, 3), torch.arange(16) % 2
    optimizer = build_optimizer(layers, config(name, lr=lr))
    for _ in range(50):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(layers(images), targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
