"""The networks: sizes against the papers, shapes, checkpoints and pruning."""

from pathlib import Path

import pytest
import torch
import torch_pruning
from torch import nn

from training.models import (
    MODELS,
    build_model,
    count_macs,
    count_parameters,
    unprunable_layers,
)
from training.models.unet_slim import SlimUNet
from training.models.vgg_slim import VGGEncoder

CHECKPOINT = (Path(__file__).parents[3] / "../shared/data/weights/resnet56_cifar10.pth").resolve()


def prune_half(model: nn.Module, size: int, round_to: int) -> None:
    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.zeros(1, 3, size, size),
        importance=torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        round_to=round_to,
        ignored_layers=unprunable_layers(model),
    )
    pruner.step()


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet20_cifar", 0.27),
        ("resnet32_cifar", 0.46),
        ("resnet44_cifar", 0.66),
        ("resnet56_cifar", 0.85),
        ("resnet110_cifar", 1.7),
    ],
)
def test_cifar_resnets_have_the_parameters_of_the_paper(name: str, millions: float) -> None:
    digits = 1 if millions > 1 else 2
    assert round(count_parameters(build_model(name, num_classes=10)) / 1e6, digits) == millions


def test_full_width_encoder_has_the_parameters_of_vgg16() -> None:
    convolutions = [m for m in VGGEncoder().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 13
    # Weights of torchvision's thirteen convolutions, whose biases batch normalisation replaces.
    assert sum(conv.weight.numel() for conv in convolutions) == 14_710_464


def test_resnet18_needs_the_multiply_accumulates_of_the_paper() -> None:
    model = build_model("resnet18", num_classes=1000)
    assert count_macs(model, (224, 224)) == pytest.approx(1.8e9, rel=0.02)


def test_macs_count_strides_groups_and_linear_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.Conv2d(6, 6, 3, padding=1, groups=3),
        nn.Flatten(),
        nn.Linear(6 * 4 * 2, 5),
    )
    assert count_macs(model, (8, 4)) == 8 * 6 * 27 + 8 * 6 * 18 + 48 * 5


def test_counting_macs_leaves_the_model_as_it_was() -> None:
    model = build_model("resnet20_cifar", num_classes=10).train()
    model.get_submodule("bn1").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (32, 32))
    assert model.training
    assert not model.get_submodule("bn1").training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_published_resnet56_checkpoint_loads_strictly() -> None:
    if not CHECKPOINT.exists():
        pytest.skip(f"the checkpoint is absent: {CHECKPOINT}")
    model = build_model("resnet56_cifar", num_classes=10)
    model.load_state_dict(torch.load(CHECKPOINT, weights_only=True), strict=True)


def test_option_a_shortcut_subsamples_and_adds_zero_channels_on_both_sides() -> None:
    block = build_model("resnet20_cifar", num_classes=10).get_submodule("layer2.0")
    x = torch.randn(2, 16, 8, 8)
    shortcut = block.shortcut(x)  # type: ignore[operator]
    assert shortcut.shape == (2, 32, 4, 4)
    assert torch.equal(shortcut[:, 8:24], x[:, :, ::2, ::2])
    assert shortcut[:, :8].abs().sum() == shortcut[:, 24:].abs().sum() == 0


def test_encoder_yields_the_map_before_each_pooling() -> None:
    encoder = VGGEncoder(width=0.25).eval()
    assert encoder.channels == [16, 32, 64, 128, 128]
    shapes = [tuple(features.shape) for features in encoder(torch.zeros(1, 3, 64, 48))]
    assert shapes == [
        (1, 16, 64, 48),
        (1, 32, 32, 24),
        (1, 64, 16, 12),
        (1, 128, 8, 6),
        (1, 128, 4, 3),
    ]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 50), (16, 97), (1, 1)])
def test_unet_answers_in_the_size_of_the_image(height: int, width: int) -> None:
    model = SlimUNet(num_classes=4, width=0.125).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 3, height, width)).shape == (2, 4, height, width)


def test_unet_pads_and_crops_odd_sizes_without_shifting_them() -> None:
    model = SlimUNet(num_classes=3, width=0.125).eval()
    image = torch.randn(1, 3, 40, 56)
    padded = torch.zeros(1, 3, 48, 64)
    padded[:, :, :40, :56] = image
    with torch.no_grad():
        assert torch.equal(model(image), model(padded)[:, :, :40, :56])


@pytest.mark.parametrize(
    ("name", "size", "round_to"),
    [
        ("resnet20_cifar", 32, 8),
        ("resnet56_cifar", 32, 16),
        ("unet_slim", 48, 8),
        ("unet_slim", 50, 16),
        ("resnet18", 64, 8),
        ("mobilenet_v2", 64, 8),
    ],
)
def test_pruned_model_is_smaller_and_still_answers(name: str, size: int, round_to: int) -> None:
    model = build_model(name, num_classes=5).eval()
    image = torch.randn(2, 3, size, size)
    parameters, macs = count_parameters(model), count_macs(model, (size, size))
    shape = model(image).shape
    prune_half(model, size, round_to)
    assert count_parameters(model) < 0.6 * parameters
    assert count_macs(model, (size, size)) < 0.7 * macs
    assert model(image).shape == shape


def test_pruning_a_cifar_resnet_leaves_the_residual_stream_alone() -> None:
    model = build_model("resnet20_cifar", num_classes=10)
    prune_half(model, size=32, round_to=8)
    channels = {
        name: conv.out_channels
        for name, conv in model.named_modules()
        if isinstance(conv, nn.Conv2d)
    }
    assert channels["layer1.0.conv1"] == 8
    assert channels["layer2.0.conv1"] == 16
    assert channels["layer3.2.conv1"] == 32
    assert channels["conv1"] == 16
    assert channels["layer2.0.conv2"] == 32
    assert channels["layer3.2.conv2"] == 64


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_layer_that_answers_the_classes_is_never_pruned(name: str) -> None:
    with torch.device("meta"):
        layers = unprunable_layers(build_model(name, num_classes=7))
    assert any(getattr(m, "out_features", getattr(m, "out_channels", 0)) == 7 for m in layers)


def test_unknown_model_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'resnet-20_cifar'; did you mean resnet20"):
        build_model("resnet-20_cifar", num_classes=10)
    with pytest.raises(ValueError, match=r"unknown model 'zzz'; known: resnet20_cifar, "):
        build_model("zzz", num_classes=10)


def test_option_that_a_model_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="unet_slim has no option widht; it accepts: width"):
        build_model("unet_slim", num_classes=2, widht=0.5)
    with pytest.raises(ValueError, match="resnet18 has no option width; it accepts: none"):
        build_model("resnet18", num_classes=2, width=0.5)


def test_impossible_sizes_of_a_network_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        build_model("resnet18", num_classes=0)
    with pytest.raises(ValueError, match="width must be positive, got -1"):
        build_model("unet_slim", num_classes=2, width=-1.0)


def test_width_option_scales_the_channels() -> None:
    narrow = build_model("unet_slim", num_classes=5, width=0.125)
    wide = build_model("unet_slim", num_classes=5, width=0.25)
    ratio = count_parameters(wide) / count_parameters(narrow)
    assert ratio == pytest.approx(4, rel=0.02)
