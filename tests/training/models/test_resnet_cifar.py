"""CIFAR ResNets with projections in the place of option-A shortcuts."""

from pathlib import Path

import pytest
import torch
from torch import nn

from training.models import build_model
from training.models.architectures.resnet_cifar import BasicBlock, CifarResNet
from training.models.initialization import initialize
from training.models.weights import load_weights


def trained() -> nn.Module:
    """Option A, with statistics and scales as training leaves them."""
    torch.manual_seed(0)
    network = build_model("resnet20_cifar", 5).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network


@pytest.mark.parametrize("side", [16, 15])
def test_weights_of_option_a_answer_the_same_with_projections(side: int, tmp_path: Path) -> None:
    network = trained()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    projected = build_model("resnet20_cifar", 5, shortcut="projection").eval()
    initialize(projected, "xavier")
    load_weights(projected, str(tmp_path / "weights.pth"), "resnet20_cifar", whole=True)
    image = torch.randn(4, 3, side, side)
    assert torch.equal(projected(image), network(image))
    learnt = {name for name, _ in projected.named_parameters()}
    assert learnt - {name for name, _ in network.named_parameters()} == {
        "layer2.0.projection.weight",
        "layer3.0.projection.weight",
    }


def test_projection_begins_as_the_zero_padded_identity() -> None:
    network = CifarResNet(8, shortcut="projection")
    for name, plain in CifarResNet(8).named_modules():
        block = network.get_submodule(name)
        if isinstance(block, BasicBlock) and isinstance(plain, BasicBlock):
            x = torch.randn(2, block.conv1.in_channels, 6, 6)
            assert torch.equal(block.shortcut(x), plain.shortcut(x))


def test_weights_that_hold_projections_keep_them(tmp_path: Path) -> None:
    given = build_model("resnet20_cifar", 5, shortcut="projection").eval()
    nn.init.normal_(given.get_parameter("layer2.0.projection.weight"))
    torch.save(given.state_dict(), tmp_path / "weights.pth")
    taken = build_model("resnet20_cifar", 5, shortcut="projection").eval()
    load_weights(taken, str(tmp_path / "weights.pth"), "resnet20_cifar")
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(taken(image), given(image))


def test_unknown_shortcut_is_refused() -> None:
    with pytest.raises(ValueError, match="shortcut must be zeros or projection, got 'B'"):
        build_model("resnet20_cifar", 5, shortcut="B")
