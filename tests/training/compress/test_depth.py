"""Stages that are too narrow to lose channels lose the blocks that are missed least."""

import pytest
import torch
from torch import nn

from training.compress.depth import going, least_missed_first, narrow_stages
from training.models import build_model, leave_out
from training.models.blocks import residual_blocks


def silent(network: nn.Module, name: str) -> None:
    """Lets a block's branch answer zero."""
    norm = network.get_submodule(f"{name}.bn2")
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)


def test_stage_is_narrow_where_its_inner_layers_have_no_more_than_a_step() -> None:
    network = build_model("resnet20_cifar", 5)
    first = ["layer1.0", "layer1.1", "layer1.2"]
    assert narrow_stages(network, 8, ()) == {}
    assert narrow_stages(network, 16, ()) == {"layer1": first}
    assert narrow_stages(network, 32, ())["layer2"] == ["layer2.1", "layer2.2"]
    assert narrow_stages(network, 16, {"layer1.1.conv2", "conv1"}) == {
        "layer1": ["layer1.0", "layer1.2"]
    }


def test_wide_networks_have_no_narrow_stage() -> None:
    with torch.device("meta"):
        for name in ("resnet18", "resnet50", "unet_resnet18", "timm/resnet18"):
            network = build_model(name, 2)
            assert residual_blocks(network)
            assert narrow_stages(network, 32, ()) == {}


@pytest.mark.parametrize(
    ("count", "ratio", "gone"), [(9, 0.5, 5), (9, 0.3, 3), (9, 0.01, 1), (3, 0.95, 2), (1, 0.9, 0)]
)
def test_no_more_than_the_rest_of_the_ratio_stays_and_one_at_least(
    count: int, ratio: float, gone: int
) -> None:
    order = [f"layer1.{index}" for index in range(count)]
    assert going(order, ratio) == order[:gone]
    assert going([], ratio) == []


def test_blocks_that_change_answers_least_go_first() -> None:
    torch.manual_seed(0)
    network = build_model("resnet20_cifar", 5).eval()
    silent(network, "layer1.2")
    batches = [torch.randn(4, 3, 16, 16), torch.randn(2, 3, 16, 16)]
    before = network(batches[0])
    order = least_missed_first(network, ["layer1.0", "layer1.1", "layer1.2"], batches)
    assert order[0] == "layer1.2"
    assert sorted(order) == ["layer1.0", "layer1.1", "layer1.2"]
    assert torch.equal(network(batches[0]), before)
    leave_out(network, order[:1])
    assert torch.equal(network(batches[0]), before)
