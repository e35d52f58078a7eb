"""Pruned networks are smaller, whole, and load without the code that built the original."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.compress.channel_pruner import ChannelPruner
from training.compress.prune import (
    check_prune,
    find_ratio,
    gradients,
    ignored_layers,
    require_smaller,
)
from training.errors import BuildError, RecipeError, TargetNotReached
from training.fitting.losses import build_loss
from training.fitting.objective import Supervised
from training.models import build_model, count_macs, count_parameters, left_out
from training.models.checkpoint import load_network, save_network
from training.recipes import parse_recipe
from training.recipes.compress import Prune
from training.recipes.loss import CrossEntropy


def config(**changes: object) -> Prune:
    train = {"epochs": 1, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 1}}
    return Prune.model_validate({"ratio": 0.5, "round_to": 8, "train": train, **changes})


def no_gradients(network: nn.Module) -> None:
    raise AssertionError("only Taylor needs gradients")


def never_timed(network: nn.Module) -> float:
    raise AssertionError("only a latency target is measured")


def prune(network: nn.Module, prune_config: Prune, size: tuple[int, int]) -> None:
    pruner = ChannelPruner(network, prune_config, prune_config.ratio or 0.0, size, no_gradients)
    for _ in range(prune_config.steps):
        pruner.step()


def channels(network: nn.Module) -> dict[str, int]:
    """Output channels of every convolution, by name."""
    return {
        name: module.out_channels
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    }


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    ("name", "options", "size"),
    [("resnet20_cifar", {}, 16), ("unet_slim", {"width": 0.25}, 32)],
)
def test_pruning_removes_arithmetic_in_whole_groups_of_channels(
    name: str, options: dict[str, float], size: int, steps: int
) -> None:
    network = build_model(name, 5, **options).eval()
    macs, parameters = count_macs(network, (size, size)), count_parameters(network)
    prune(network, config(steps=steps), (size, size))
    assert 0.1 < count_macs(network, (size, size)) / macs < 0.7
    assert count_parameters(network) < 0.7 * parameters
    assert all(count % 8 == 0 or count == 5 for count in channels(network).values())
    answer = network(torch.zeros(2, 3, size, size))
    assert answer.shape[:2] == (2, 5)


def test_steps_end_where_one_step_does() -> None:
    network = build_model("resnet20_cifar", 5)
    once, often = copy.deepcopy(network), copy.deepcopy(network)
    prune(once, config(), (16, 16))
    prune(often, config(steps=4), (16, 16))
    assert channels(once) == channels(often)


def test_tilt_takes_more_from_later_layers_and_less_from_earlier_ones() -> None:
    left = {}
    for tilt in (0.0, 0.5, -0.5):
        network = build_model("resnet20_cifar", 10)
        whole = channels(network)
        prune(network, config(tilt=tilt, round_to=1), (32, 32))
        left[tilt] = {name: n / whole[name] for name, n in channels(network).items()}
    first, last = "layer1.0.conv1", "layer3.2.conv1"
    assert left[0.0][first] == left[0.0][last] == 0.5
    assert left[0.5][first] > 0.6 > 0.4 > left[0.5][last]
    assert left[-0.5][first] < 0.4 < 0.6 < left[-0.5][last]


def test_tilt_shares_out_blocks_as_it_does_channels() -> None:
    def gone(tilt: float) -> list[str]:
        network = build_model("resnet56_cifar", 10)
        blocks = [[f"{stage}.{n}" for n in range(1, 9)] for stage in ("layer1", "layer3")]
        return ChannelPruner(
            network, config(tilt=tilt), 0.5, (32, 32), no_gradients, (), blocks
        ).left_out

    def of(stage: str, tilt: float) -> int:
        return sum(name.startswith(stage) for name in gone(tilt))

    assert of("layer1", 0.0) == of("layer3", 0.0) == 4
    assert of("layer1", 0.5) < 4 < of("layer3", 0.5)


def test_tilted_heads_and_widths_of_a_transformer_still_run() -> None:
    network = build_model("timm/vit_tiny_patch16_224", 3, img_size=32, patch_size=8, depth=3)
    before = count_parameters(network)
    prune(network, config(tilt=1.0, round_to=1), (32, 32))
    assert count_parameters(network) < before
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_option_a_shortcuts_leave_the_residual_stream_whole() -> None:
    network = build_model("resnet20_cifar", 5)
    before = channels(network)
    prune(network, config(), (16, 16))
    for name, count in channels(network).items():
        assert count == (
            before[name] // 2 if name.endswith("conv1") and "." in name else before[name]
        )


def test_projections_let_each_stage_lose_channels_of_its_residual_stream() -> None:
    network = build_model("resnet20_cifar", 5, shortcut="projection")
    before = channels(network)
    prune(network, config(), (16, 16))
    assert {name: 2 * count for name, count in channels(network).items()} == before
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 5)


def test_stage_of_blocks_loses_the_first_of_them_and_its_channels_stay() -> None:
    network = build_model("resnet20_cifar", 5)
    blocks = ["layer1.1", "layer1.2", "layer1.0"]
    pruner = ChannelPruner(
        network, config(round_to=16), 0.5, (16, 16), no_gradients, blocks=[blocks]
    )
    pruner.step()
    assert left_out(network) == ["layer1.1", "layer1.2"]
    found = channels(network)
    assert [name for name in found if name.startswith("layer1")] == [
        "layer1.0.conv1",
        "layer1.0.conv2",
    ]
    assert (found["layer1.0.conv1"], found["layer2.0.conv1"], found["layer3.0.conv1"]) == (
        16,
        16,
        32,
    )


def test_macs_target_counts_the_blocks_that_go() -> None:
    network = build_model("resnet20_cifar", 5)
    target = config(ratio=None, macs=0.6, round_to=16)
    blocks = [["layer1.1", "layer1.2", "layer1.0"]]
    hard = config(ratio=None, macs=0.3, round_to=16)
    with pytest.raises(TargetNotReached, match=r"prune\.macs: 0\.3 cannot be reached"):
        find_ratio(network, hard, (16, 16), no_gradients, (), never_timed)
    ratio = find_ratio(network, target, (16, 16), no_gradients, (), never_timed, blocks)
    pruned = copy.deepcopy(network)
    ChannelPruner(pruned, target, ratio, (16, 16), no_gradients, blocks=blocks).step()
    assert count_macs(pruned, (16, 16)) <= 0.6 * count_macs(network, (16, 16))
    assert left_out(pruned)
    assert not left_out(network)


@pytest.mark.parametrize("importance", ["l1", "l2", "bn_scale", "taylor", "random"])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_every_importance_prunes_what_still_runs(importance: str, scope: str) -> None:
    torch.manual_seed(0)
    network = build_model("resnet20_cifar", 5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    images, targets = torch.randn(4, 3, 16, 16), torch.arange(4)
    chosen = config(importance=importance, scope=scope, round_to=4)

    def backward(pruned: nn.Module) -> None:
        gradients(pruned, Supervised(build_loss(CrossEntropy()), 0.0), [(images, targets)])

    macs = count_macs(network, (16, 16))
    ChannelPruner(network, chosen, 0.4, (16, 16), backward).step()
    assert count_macs(network, (16, 16)) < 0.9 * macs
    assert network(images).shape == (4, 5)


def test_least_important_channel_goes() -> None:
    network = build_model("resnet20_cifar", 5)
    block = network.get_submodule("layer1.0")
    with torch.no_grad():
        for parameter in (block.conv1.weight, block.bn1.weight):
            parameter[3] *= 1e-3
        block.conv2.weight[:, 3] *= 1e-3
    kept = torch.cat([block.conv1.weight[:3], block.conv1.weight[4:]]).detach().clone()
    prune(network, config(ratio=0.05, round_to=1), (16, 16))
    assert torch.equal(network.get_submodule("layer1.0.conv1").weight, kept)


def test_ignored_layers_keep_their_channels() -> None:
    network = build_model("resnet20_cifar", 5)
    kept = ignored_layers(network, ("layer1.*", "layer3.2.conv1"))
    before = channels(network)
    ChannelPruner(network, config(), 0.5, (16, 16), no_gradients, kept).step()
    after = channels(network)
    assert all(after[name] == before[name] for name in kept if name in after)
    assert after["layer2.0.conv1"] < before["layer2.0.conv1"]
    with pytest.raises(
        RecipeError, match=r"prune.ignore: 'layer9' matches no layer; there are conv1"
    ):
        ignored_layers(network, ("layer9",))


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_macs_target_is_met_by_the_smallest_ratio(scope: str) -> None:
    network = build_model("resnet20_cifar", 5)
    target = config(ratio=None, macs=0.6, scope=scope, round_to=1)

    def share(ratio: float) -> float:
        pruned = copy.deepcopy(network)
        ChannelPruner(pruned, target, ratio, (16, 16), no_gradients).step()
        return count_macs(pruned, (16, 16)) / count_macs(network, (16, 16))

    ratio = find_ratio(network, target, (16, 16), no_gradients, (), never_timed)
    assert share(ratio) <= 0.6 < share(ratio - 0.01)
    assert channels(network) == channels(build_model("resnet20_cifar", 5))


def test_latency_target_is_met_by_the_smallest_ratio_that_was_fast_enough() -> None:
    network = build_model("resnet20_cifar", 5)
    full = count_macs(network, (16, 16))
    target = config(ratio=None, latency={"speedup": 1.5})
    seen: list[int] = []

    def speedup_of(candidate: nn.Module) -> float:
        seen.append(count_macs(candidate, (16, 16)))
        return full / seen[-1]

    ratio = find_ratio(network, target, (16, 16), no_gradients, (), speedup_of)
    prune(network, config(ratio=ratio), (16, 16))
    assert full / count_macs(network, (16, 16)) >= 1.5
    assert len(seen) == len(set(seen))


def test_target_out_of_reach_says_how_far_pruning_gets() -> None:
    network = build_model("resnet20_cifar", 5)
    with pytest.raises(TargetNotReached, match=r"speedup: 9\.0 cannot be reached.* 2\.00x with"):
        find_ratio(
            network,
            config(ratio=None, latency={"speedup": 9.0}),
            (16, 16),
            no_gradients,
            (),
            lambda candidate: 2.0,
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratio": None}, "expected one of ratio, macs and latency; got none"),
        ({"macs": 0.5}, "got ratio and macs"),
        ({"ratio": None, "latency": {"speedup": 2, "engine": "abacus"}}, "engine: expected one of"),
        (
            {"ratio": None, "latency": {"speedup": 2, "engine": "onnxruntime", "variant": "bf16"}},
            "onnxruntime does not run bf16",
        ),
    ],
)
def test_targets_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**changes)


def test_pruned_network_loads_without_what_pruned_it(tmp_path: Path) -> None:
    network = build_model("resnet20_cifar", 5).eval()
    prune(network, config(round_to=4), (16, 16))
    save_network(network, tmp_path / "network.safetensors")
    image: Tensor = torch.randn(2, 3, 16, 16)
    assert torch.equal(load_network(tmp_path / "network.safetensors")(image), network(image))
    script = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "from pathlib import Path; from training.models.checkpoint import load_network\n"
        f"load_network(Path({str(tmp_path / 'network.safetensors')!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_file_that_holds_no_network_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "network.safetensors")
    with pytest.raises(BuildError, match="cannot be read"):
        load_network(tmp_path / "network.safetensors")


def asked(network: str, side: int, **prune: object) -> None:
    """Checks a recipe that prunes a network for images of that side."""
    train = {"epochs": 1, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 1}}
    check_prune(
        parse_recipe(
            {
                "name": "asked",
                "task": "classification",
                "data": {"source": "digits"},
                "transform": {"resize": [side, side]},
                "model": {"name": network},
                "train": train,
                "prune": {"train": {"epochs": 1}, "round_to": 8, **prune},
            }
        )
    )


@pytest.mark.parametrize(
    ("network", "side", "settings", "said"),
    [
        ("lenet5", 32, {"ratio": 0.7, "importance": "bn_scale"}, "lenet5 has none"),
        ("vgg11", 32, {"macs": 0.5, "importance": "bn_scale"}, "vgg11 has none"),
        ("resnet20_cifar", 16, {"ratio": 0.5, "ignore": ["*"]}, "with 20 layers ignored"),
        ("resnet20_cifar", 16, {"macs": 0.5, "ignore": ["layer*"]}, "ratio 0.95 removes no chan"),
        ("resnet20_cifar", 16, {"ratio": 0.5, "round_to": 64}, "round_to 64"),
        ("resnet20_cifar", 16, {"ratio": 0.5, "round_to": 64, "scope": "global"}, "scope global"),
    ],
)
def test_pruning_that_can_remove_nothing_is_refused_before_training(
    network: str, side: int, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(RecipeError, match=rf"^prune.*{said}"):
        asked(network, side, **settings)


@pytest.mark.parametrize("importance", ["l1", "bn_scale", "taylor", "random"])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_pruning_that_can_remove_something_is_not_refused(importance: str, scope: str) -> None:
    asked("resnet20_cifar", 16, ratio=0.5, importance=importance, scope=scope)


def test_pruned_network_that_lost_nothing_is_no_result() -> None:
    network = build_model("lenet5", 5)
    with pytest.raises(TargetNotReached, match=r"ratio 0\.5 removes no channel, importance taylor"):
        require_smaller(network, copy.deepcopy(network), config(importance="taylor"), 0.5)
