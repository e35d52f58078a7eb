"""Backbone and head of networks of every make."""

import pytest
import torch
from torch import nn
from torchvision import models

from training.models import build_model
from training.models.backbone import backbone_parameters, freeze_backbone, unfreeze_backbone
from training.models.initialization import Start, initialize


def head_names(network: nn.Module) -> set[str]:
    backbone = set(backbone_parameters(network))
    return {name for name, p in network.named_parameters() if p not in backbone}


def test_head_is_the_last_layer() -> None:
    assert head_names(build_model("resnet20_cifar", 10)) == {"linear.weight", "linear.bias"}
    assert head_names(build_model("mobilenet_v2", 10)) == {
        "classifier.1.weight",
        "classifier.1.bias",
    }


def test_backbone_of_a_segmentation_network_is_its_encoder() -> None:
    network = build_model("unet_vgg16_bn", 3)
    assert {name.split(".")[0] for name in head_names(network)} == {"decoder", "head"}


def test_backbone_of_a_vision_transformer_begins_with_its_first_layer() -> None:
    network = models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=3)
    assert head_names(network) == {"heads.head.weight", "heads.head.bias"}


def test_frozen_backbone_changes_in_nothing() -> None:
    network = build_model("resnet20_cifar", 10).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    freeze_backbone(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    changed = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"linear.weight", "linear.bias"}
    unfreeze_backbone(network)
    assert all(p.requires_grad for p in network.parameters())
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(("start", "variance"), [("xavier", 2 / (64 + 128)), ("kaiming", 2 / 64)])
def test_weights_start_with_the_variance_of_the_paper(start: Start, variance: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 128)
    initialize(nn.Sequential(layer, nn.BatchNorm1d(128)), start)
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.05)
    assert not layer.bias.any()


def test_default_start_is_the_networks_own() -> None:
    layer = nn.Linear(4, 4)
    before = layer.weight.clone()
    initialize(layer, "default")
    assert torch.equal(layer.weight, before)
