"""What the optimiser is given."""

from torch import nn

from training.optimizer import build_optimizer
from training.recipe.optimizer import Sgd


def test_biases_and_norm_layers_do_not_decay() -> None:
    optimizer = build_optimizer(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)),
        Sgd(name="sgd", lr=0.1, weight_decay=0.5),
    )
    decayed, free = optimizer.param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert decayed["weight_decay"] == 0.5
    assert {p.ndim for p in free["params"]} == {1}
    assert free["weight_decay"] == 0.0
