"""Rounding while training: the grid is the exported one, and nothing of it stays behind."""

import copy

import torch
from torch import nn

from training.compress.qat import fake_quantized
from training.models import build_model


def test_weights_are_rounded_to_the_exported_grid() -> None:
    layer = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.27, 0.0]).view(2, 1, 1, 1))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    original = copy.deepcopy(network)
    with fake_quantized(network):
        rounded = network[0].weight
        steps = original[0].weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
        levels = rounded / steps
        assert torch.allclose(levels, levels.round(), atol=1e-3)
        assert (rounded - original[0].weight).abs().max() <= 0.51 * steps.max()
        assert not torch.equal(rounded, original[0].weight)
    assert isinstance(network[0].weight, nn.Parameter)


def test_batch_norm_before_rounding_or_after_gives_the_same_answers() -> None:
    """Why nothing is folded: a factor on a channel scales its grid."""
    weight = torch.randn(4, 3, 3, 3)
    factor = torch.rand(4).view(4, 1, 1, 1) + 0.1

    def rounded(values: torch.Tensor) -> torch.Tensor:
        layer = nn.Conv2d(3, 4, 3)
        layer.weight = nn.Parameter(values)
        with fake_quantized(nn.Sequential(layer)):
            return layer.weight.detach().clone()

    assert torch.allclose(rounded(weight) * factor, rounded(weight * factor), atol=1e-5)


def test_network_learns_and_comes_back_with_its_statistics_and_no_rounding() -> None:
    torch.manual_seed(0)
    network = build_model("resnet20_cifar", 4).train()
    keys = set(network.state_dict())
    statistics = network.bn1.running_mean.clone()
    before = network.conv1.weight.detach().clone()
    images = torch.randn(4, 3, 16, 16)
    with fake_quantized(network):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        network(images).square().mean().backward()
        optimizer.step()
        assert network.layer1[0].conv1.input_peak > 0
    assert set(network.state_dict()) == keys
    assert torch.equal(network.bn1.running_mean, statistics)
    assert not torch.equal(network.conv1.weight, before)
    assert not network.conv1._forward_pre_hooks
