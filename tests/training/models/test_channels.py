"""Networks of grey images: every one can be built, and answers as RGB does to equal channels."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from training.errors import RecipeError
from training.models import MODELS, build_model, count_macs, count_parameters, input_channels
from training.models.channels import take_grey
from training.models.checkpoint import load_network, save_network
from training.models.weights import load_weights

SIDE = 32


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if entry.tested_as else [])
        for name, entry in MODELS.items()
    ],
)
def test_every_network_takes_grey_images(name: str) -> None:
    with torch.device("meta"):
        grey, colour = (build_model(name, 3, channels=channels) for channels in (1, 3))
    assert (input_channels(grey), input_channels(colour)) == (1, 3)
    first = next(m for m in colour.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    assert count_parameters(colour) - count_parameters(grey) == first.weight.numel() * 2 // 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lenet5", {}),
        ("resnet20_cifar", {"attention": "cbam"}),
        ("mobilenet_v2", {}),
        ("vit_b_16", {"image_size": 32}),
        ("unet_slim", {"width": 0.125}),
        ("unet_resnet18", {}),
    ],
)
def test_grey_network_answers_as_rgb_does_to_three_equal_channels(
    name: str, options: dict[str, object]
) -> None:
    images = torch.rand(2, 1, SIDE, SIDE)
    answers = []
    for channels in (1, 3):
        torch.manual_seed(0)
        network = build_model(name, 4, channels=channels, **options).eval()
        with torch.no_grad():
            answers.append(network(images.expand(-1, channels, -1, -1)))
    assert torch.allclose(answers[0], answers[1], atol=1e-4)


def test_lenet_of_the_paper_has_its_parameters() -> None:
    assert count_parameters(build_model("lenet5", 10, channels=1)) == 61_706
    assert count_macs(build_model("lenet5", 10, channels=1), (32, 32)) == (
        28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 120 * 16 * 25 + 120 * 84 + 84 * 10
    )


def test_network_without_one_first_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot take grey images: .* found 2"):
        take_grey(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1)))


def test_file_of_a_grey_network_is_read_back(tmp_path: Path) -> None:
    network = build_model("resnet20_cifar", 4, channels=1)
    save_network(network, tmp_path / "network.safetensors")
    again = load_network(tmp_path / "network.safetensors")
    assert input_channels(again) == 1
    images = torch.rand(2, 1, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(again(images), network.eval()(images))


@pytest.mark.parametrize("name", ["resnet18", "unet_resnet18"])
def test_weights_of_rgb_are_summed_over_the_colours(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    torch.manual_seed(1)
    colour = build_model("resnet18", 10)
    torch.save(colour.state_dict(), tmp_path / "rgb.pth")
    grey = build_model(name, 10, channels=1)
    load_weights(grey, str(tmp_path / "rgb.pth"), name)
    state = grey.state_dict()
    key = "conv1.weight" if name == "resnet18" else "encoder.conv1.weight"
    assert torch.equal(state[key], colour.state_dict()["conv1.weight"].sum(1, keepdim=True))
    assert "summed over the colours, for grey images: conv1.weight" in caplog.text
    if name == "resnet18":
        image = torch.rand(1, 1, 64, 64)
        with torch.no_grad():
            expected = colour.eval()(image.expand(-1, 3, -1, -1))
            assert torch.allclose(grey.eval()(image), expected, atol=1e-4)


def test_weights_of_grey_fit_grey_alone(tmp_path: Path) -> None:
    torch.save(build_model("lenet5", 10, channels=1).state_dict(), tmp_path / "grey.pth")
    load_weights(build_model("lenet5", 10, channels=1), str(tmp_path / "grey.pth"), "lenet5")
    with pytest.raises(RecipeError, match=r"c1.weight is \[6, 1, 5, 5\] there and \[6, 3, 5, 5\]"):
        load_weights(build_model("lenet5", 10), str(tmp_path / "grey.pth"), "lenet5")
