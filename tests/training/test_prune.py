"""Pruned networks are smaller, whole, and load without the code that built the original."""

from pathlib import Path

import pytest
import torch
from torch import nn

from training.checkpoint import load_network, save_network
from training.models import build_model, count_macs, count_parameters
from training.prune import prune
from training.recipe.compress import Prune


def config(ratio: float, round_to: int) -> Prune:
    train = {"epochs": 1, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 1}}
    return Prune.model_validate({"ratio": ratio, "round_to": round_to, "train": train})


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [("resnet20_cifar", {}, 16), ("unet_slim", {"width": 0.25}, 32)],
)
def test_pruning_removes_arithmetic_in_whole_groups_of_channels(
    name: str, options: dict[str, float], size: int
) -> None:
    network = build_model(name, 5, **options).eval()
    macs, parameters = count_macs(network, (size, size)), count_parameters(network)
    share = prune(network, config(0.5, 8), (size, size))
    assert share == pytest.approx(1 - count_macs(network, (size, size)) / macs)
    assert 0.3 < share < 0.9
    assert count_parameters(network) < 0.7 * parameters
    channels = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert all(count % 8 == 0 or count == 5 for count in channels)
    answer = network(torch.zeros(2, 3, size, size))
    assert answer.shape[:2] == (2, 5)


def test_pruned_network_survives_a_file(tmp_path: Path) -> None:
    network = build_model("resnet20_cifar", 5).eval()
    prune(network, config(0.5, 4), (16, 16))
    save_network(network, tmp_path / "network.pt")
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_network(tmp_path / "network.pt")(image), network(image))


def test_file_that_holds_no_network_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "network.pt")
    with pytest.raises(TypeError, match="expected a network, got dict"):
        load_network(tmp_path / "network.pt")
