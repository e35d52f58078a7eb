"""The networks: shapes, sizes, heads and pruning."""

import pytest
import torch
import torch_pruning
from torch import nn

from training.models import (
    MODELS,
    build_model,
    check_input_size,
    count_macs,
    count_parameters,
    drop_auxiliary_heads,
    head_layers,
    unprunable_layers,
)
from training.models.architectures.unet_slim import SlimUNet
from training.models.architectures.vgg_slim import VGGEncoder
from training.models.attention import ChannelAttention, SpatialAttention


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


def test_full_width_encoder_has_the_parameters_of_vgg16() -> None:
    convolutions = [m for m in VGGEncoder().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 13
    # Weights of torchvision's thirteen convolutions, whose biases batch normalisation replaces.
    assert sum(conv.weight.numel() for conv in convolutions) == 14_710_464


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


def test_unknown_model_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'resnet-20_cifar'; did you mean resnet20"):
        build_model("resnet-20_cifar", num_classes=10)
    with pytest.raises(ValueError, match=r"unknown model 'zzz'; known: lenet5, resnet20_cifar, "):
        build_model("zzz", num_classes=10)


def test_option_that_a_model_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="unet_slim has no option widht; it accepts: width"):
        build_model("unet_slim", num_classes=2, widht=0.5)
    with pytest.raises(ValueError, match="resnet18 has no option width; it accepts: attention"):
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


@pytest.mark.parametrize("name", [n for n, entry in MODELS.items() if entry.smallest_side > 1])
def test_smallest_side_is_what_the_network_can_take(name: str) -> None:
    side = MODELS[name].smallest_side
    options = {"image_size": side} if "image_size" in MODELS[name].options else {}
    with torch.device("meta"):
        network = build_model(name, 3, **options).eval()
        assert network(torch.zeros(2, 3, side, side)).shape == (2, 3)
        with pytest.raises((RuntimeError, AssertionError)):
            network(torch.zeros(2, 3, side - 1, side - 1))
    check_input_size(name, (side, side), **options)
    with pytest.raises(ValueError, match=rf"{name} takes images .*{side}x{side}.*, got"):
        check_input_size(name, (side - 1, side - 1), **options)


@pytest.mark.parametrize("name", [n for n, entry in MODELS.items() if entry.smallest_side == 1])
def test_any_size_is_taken_where_no_smallest_side_is_stated(name: str) -> None:
    with torch.device("meta"):
        network = build_model(name, 3).eval()
        answer = network(torch.zeros(2, 3, 5, 9))
    assert answer.shape == ((2, 3, 5, 9) if MODELS[name].task == "segmentation" else (2, 3))


def test_transformer_takes_its_own_size_only() -> None:
    check_input_size("vit_b_16", (224, 224))
    with pytest.raises(ValueError, match="vit_b_16 takes images of 224x224 only, got 256x256"):
        check_input_size("vit_b_16", (256, 256))
    with pytest.raises(ValueError, match="image_size must be a multiple of 16, got 100"):
        build_model("vit_b_16", 3, image_size=100)


@pytest.mark.parametrize("name", MODELS)
def test_layers_that_answer_the_classes_are_never_pruned_and_may_be_of_one_class(name: str) -> None:
    with torch.device("meta"):
        network = build_model(name, 1)
    heads = head_layers(network)
    assert heads
    assert {getattr(m, "out_features", getattr(m, "out_channels", 0)) for m in heads} == {1}
    assert set(heads) <= set(unprunable_layers(network))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if entry.tested_as else [])
        for name, entry in MODELS.items()
        if "auxiliary" in entry.options
    ],
)
def test_auxiliary_head_answers_in_training_only(name: str) -> None:
    with torch.device("meta"):
        network = build_model(name, 3, auxiliary=True)
        images = torch.zeros(2, 3, 40, 56)
        logits, auxiliary = network.train()(images)
        assert logits.shape == auxiliary.shape == (2, 3, 40, 56)
        assert network.eval()(images).shape == (2, 3, 40, 56)
        drop_auxiliary_heads(network)
        assert network.train()(images).shape == (2, 3, 40, 56)
        assert count_parameters(network) == count_parameters(build_model(name, 3))


def test_googlenet_answers_from_three_heads_in_training_and_one_later() -> None:
    with torch.device("meta"):
        network = build_model("googlenet", 3)
        images = torch.zeros(2, 3, 32, 32)
        assert [tuple(logits.shape) for logits in network.train()(images)] == [(2, 3)] * 3
        assert network.eval()(images).shape == (2, 3)
        drop_auxiliary_heads(network)
        assert network.train()(images).shape == (2, 3)


def test_pair_that_cannot_be_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"deeplabv3plus_vgg16 cannot be: .* cannot be dilated"):
        build_model("deeplabv3plus_vgg16", 3)


def test_segmentation_pads_and_crops_odd_sizes_without_shifting_them() -> None:
    network = build_model("fpn_resnet18", 3).eval()
    image = torch.randn(1, 3, 40, 56)
    padded = torch.zeros(1, 3, 64, 64)
    padded[:, :, :40, :56] = image
    with torch.no_grad():
        assert torch.equal(network(image), network(padded)[:, :, :40, :56])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "vgg16_bn", "resnet20_cifar"])
@pytest.mark.parametrize("attention", ["se", "cbam"])
def test_attention_adds_few_parameters_and_keeps_the_answer(name: str, attention: str) -> None:
    with torch.device("meta"):
        network = build_model(name, 3, attention=attention).eval()
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
        plain = count_parameters(build_model(name, 3))
    assert plain < count_parameters(network) < 1.15 * plain


@torch.no_grad()
def test_attention_weighs_channels_and_places_between_zero_and_one() -> None:
    x = torch.rand(2, 16, 6, 6) + 0.1
    weights = ChannelAttention(16)(x) / x
    assert torch.allclose(weights, weights[:, :, :1, :1].expand_as(weights))
    assert 0 < float(weights.min()) < float(weights.max()) < 1
    weights = SpatialAttention()(x) / x
    assert torch.allclose(weights, weights[:, :1].expand_as(weights))
    assert 0 < float(weights.min()) < float(weights.max()) < 1


def test_unknown_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="attention must be one of se, cbam, got 'ses'"):
        build_model("resnet18", 3, attention="ses")
