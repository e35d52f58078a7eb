"""Networks of which residual blocks are left out."""

from pathlib import Path

import pytest
import torch

from training.errors import BuildError
from training.models import build_model, count_macs, leave_out, left_out, structure_of
from training.models.blocks import residual_blocks
from training.models.checkpoint import load_network, save_network


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        ("timm/resnet18", ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        ("unet_resnet18", [f"encoder.layer{stage}.1" for stage in range(1, 5)]),
        ("vgg11", []),
    ],
)
def test_blocks_that_keep_their_shape_are_known_and_any_can_go(
    name: str, blocks: list[str]
) -> None:
    with torch.device("meta"):
        network = build_model(name, 2)
        found = [block for stage in residual_blocks(network).values() for block in stage]
        assert set(blocks) <= set(found)
        leave_out(network, found)
        assert residual_blocks(network) == {}
        network.eval()(torch.zeros(1, 3, 64, 64))


def test_network_without_some_blocks_is_smaller_and_survives_a_file(tmp_path: Path) -> None:
    network = build_model("resnet20_cifar", 5, channels=1).eval()
    whole = count_macs(network, (16, 16))
    leave_out(network, ["layer1.1"])
    leave_out(network, ["layer3.2"])
    assert left_out(network) == ["layer1.1", "layer3.2"]
    assert count_macs(network, (16, 16)) < 0.8 * whole
    save_network(network, tmp_path / "network.safetensors")
    again = load_network(tmp_path / "network.safetensors")
    image = torch.randn(2, 1, 16, 16)
    assert torch.equal(again(image), network(image))
    assert left_out(again) == left_out(network)


@pytest.mark.parametrize("name", ["layer2.0", "layer1", "layer9.1", "", "layer1.0.conv1"])
def test_only_whole_blocks_that_keep_their_shape_can_be_left_out(name: str) -> None:
    with pytest.raises(ValueError, match="is no residual block that can be left out"):
        structure_of("resnet20_cifar", 5, left_out=[name])


def test_file_that_leaves_out_another_thing_is_refused(tmp_path: Path) -> None:
    network = build_model("resnet20_cifar", 5)
    leave_out(network, ["layer1.1"])
    file = tmp_path / "network.safetensors"
    save_network(network, file)
    content = file.read_bytes()
    assert content.count(b'layer1.1\\"]') == 1
    file.write_bytes(content.replace(b'layer1.1\\"]', b'linear..\\"]'))
    with pytest.raises(BuildError, match=r"'linear\.\.' is no residual block"):
        load_network(file)
