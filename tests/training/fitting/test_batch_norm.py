"""Batch norms with the statistics of many images."""

import copy

import torch
from torch import nn

from training.fitting.batch_norm import re_estimate


def test_statistics_are_those_of_all_batches_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Dropout(0.5), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)
    ).train()
    before = copy.deepcopy(network)
    batches = list(torch.randn(6, 32, 3, 8, 8) * 2 + 1)
    re_estimate(network, batches)
    with torch.no_grad():
        answers = network[1](torch.cat(batches))
    norm = network[2]
    assert torch.allclose(norm.running_mean, answers.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, answers.var((0, 2, 3)), rtol=0.05)
    assert network.training
    assert network[0].training
    assert norm.momentum == before[2].momentum
    for (name, value), other in zip(network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_a_network_without_batch_norms_is_not_run() -> None:
    class Loud(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise AssertionError("ran")

    re_estimate(Loud(), [torch.zeros(1)])


def test_norms_without_statistics_stay_without() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    re_estimate(network, [torch.randn(4, 3, 2, 2)])
    assert network[0].running_mean is None
