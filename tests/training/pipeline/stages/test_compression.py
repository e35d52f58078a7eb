"""Stages that make a network smaller, over one small trained network and real engines."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import training.compress.channel_step
import training.compress.stopwatch
import training.pipeline.stages.prune
import training.pipeline.stages.quantize
from serving.engines import Engine
from training.compress.channel_step import Curve
from training.compress.distill import Distillation
from training.compress.sensitivity import fewest_float_layers
from training.compress.stopwatch import speedup
from training.errors import RecipeError
from training.fitting.build import Build
from training.fitting.train import Fitted
from training.models import left_out
from training.models.architectures.resnet_cifar import BasicBlock
from training.models.checkpoint import load_network, save_network
from training.pipeline.pipeline import build
from training.recipes import Recipe

MakeRecipe = Callable[..., Recipe]


def results(runs: Path, stage: str) -> dict[str, Any]:
    document = json.loads((runs / "tiny-digits" / stage / "done.json").read_text())
    found: dict[str, Any] = document["results"]
    return found


def make_hostile(file: Path) -> None:
    """One channel a thousand times as large as the others, and as much smaller where it is read: in
    FP32 the network is the same, in INT8 a step of that tensor is larger than the others' values.
    """
    network = load_network(file)
    block = network.get_submodule("layer1.0")
    with torch.no_grad():
        for values in (block.bn1.weight, block.bn1.bias):
            values[0] *= 1000
        block.bn1.bias[0] += 100
        block.conv2.weight[:, 0] /= 1000
    save_network(network, file)


def test_layer_that_breaks_the_gate_in_int8_stays_in_floating_point(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    make_hostile(runs / "tiny-digits" / "prune" / "network.safetensors")
    recipe = digits_recipe(
        {
            "verify.max_drop": 0.1,
            "export.variants": ["fp32", "int8-s8"],
            "quantize.sensitivity": {"images": 40},
            "quantize.equalize": "never",
        }
    )
    build(recipe, runs, tmp_path / "repository", until="export")
    found = results(runs, "quantize")
    assert (
        "1 of 20 layers in FP32 (layer1.0.conv2): on validation images"
        in (found["notes"]["int8-s8"])
    )
    [sensitivity] = found["sensitivity"]
    assert sensitivity["left_alone"] == ["layer1.0.conv2"]
    assert sensitivity["images"] == 40
    assert min(sensitivity["agreement"], key=sensitivity["agreement"].get) == "layer1.0.conv2"
    report = (runs / "tiny-digits" / "report.html").read_text()
    assert "left alone (orange): <bdi>layer1.0.conv2</bdi>" in report


def test_layers_that_a_recipe_asks_for_stay_in_floating_point_though_the_gate_passes(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = digits_recipe(
        {
            "verify.max_drop": 1.0,
            "verify.min_accuracy": 0.0,
            "export.variants": ["fp32", "int8-s8"],
            "quantize.sensitivity": {"images": 20},
            "quantize.mixed_precision": {"images": 20, "min_float": 0.1},
        }
    )
    build(recipe, runs, tmp_path / "repository", until="quantize")
    found = results(runs, "quantize")
    [sensitivity] = found["sensitivity"]
    assert found["notes"]["int8-s8"].startswith("2 of 20 layers in FP32 (")
    assert len(sensitivity["left_alone"]) == 2
    said = r"min_float: expected at most max_float, 0\.25"
    with pytest.raises(RecipeError, match=said):
        digits_recipe({"quantize.mixed_precision": {"min_float": 0.3}})


def test_channels_are_made_alike_before_a_layer_is_left_in_floating_point(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    make_hostile(runs / "tiny-digits" / "prune" / "network.safetensors")
    recipe = digits_recipe({"verify.max_drop": 0.1, "export.variants": ["fp32", "int8-s8"]})
    build(recipe, runs, tmp_path / "repository", until="quantize")
    said = results(runs, "quantize")["notes"]["int8-s8"]
    assert re.match(r"\d+ tensors with channels made alike; all layers in INT8: on .* drop", said)
    assert "in FP32" not in said


def make_coarse(file: Path) -> None:
    """In each block one channel smaller, and its weights as much larger where it is read: in FP32
    the network is the same, in INT8 the other weights have a few levels."""
    network = load_network(file)
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock)]
    with torch.no_grad():
        for block in blocks:
            for values in (block.bn1.weight, block.bn1.bias):
                values[0] /= 100
            block.conv2.weight[:, 0] *= 100
    save_network(network, file)


def test_weights_are_rounded_adaptively_before_layers_are_left_in_floating_point(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    make_coarse(runs / "tiny-digits" / "prune" / "network.safetensors")
    said = {}
    for allowed in ("never", "needed"):
        recipe = digits_recipe(
            {
                "verify.max_drop": 0.02,
                "export.variants": ["fp32", "int8-s8"],
                "quantize.equalize": "never",
                "quantize.adaptive_rounding": allowed,
            }
        )
        build(recipe, runs, tmp_path / "repository", until="quantize")
        said[allowed] = results(runs, "quantize")["notes"]["int8-s8"]
    nearest = re.match(r"(\d+) of 20 layers in FP32", said["never"])
    adaptive = re.match(r"adaptive rounding; (\d+) of 20 layers in FP32", said["needed"])
    assert nearest is not None, said
    assert adaptive is not None, said
    assert int(adaptive[1]) < int(nearest[1])


def test_mixture_that_cannot_pass_is_given_up_with_the_numbers(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    make_hostile(runs / "tiny-digits" / "prune" / "network.safetensors")
    recipe = digits_recipe(
        {
            "verify.max_drop": 0.1,
            "export.variants": ["fp32", "int8-s8"],
            "quantize.mixed_precision": {"max_float": 0.0},
            "quantize.equalize": "never",
        }
    )
    build(recipe, runs, tmp_path / "repository", until="quantize")
    assert (
        "all layers in INT8: on validation images drop"
        in (results(runs, "quantize")["notes"]["int8-s8"])
    )


def test_groups_whose_pruning_changes_answers_keep_their_channels(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = digits_recipe(
        {
            "prune.train": {"epochs": 1},
            "prune.steps": 2,
            "prune.sensitivity": {"images": 60, "ratio": 0.9, "min_agreement": 0.8},
        }
    )
    build(recipe, runs, tmp_path / "repository", until="prune")
    found = results(runs, "prune")
    assert [row["epoch"] for row in found["history"]] == [1, 2]
    [sensitivity] = found["sensitivity"]
    left = set(sensitivity["left_alone"])
    assert left == {name for name, value in sensitivity["agreement"].items() if value < 0.8}
    assert 0 < len(left) < len(sensitivity["agreement"])
    trained = load_network(runs / "tiny-digits" / "train" / "network.safetensors")
    pruned = load_network(runs / "tiny-digits" / "prune" / "network.safetensors")
    for name in sensitivity["agreement"]:
        before, after = (n.get_submodule(name) for n in (trained, pruned))
        assert isinstance(before, nn.Conv2d)
        assert isinstance(after, nn.Conv2d)
        assert (after.out_channels == before.out_channels) == (name in left)


def test_latency_target_is_measured_in_the_serving_engine(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    # Which of the two is faster is for the clock to say, and no test asserts time.
    def ratio(reference: Engine, candidate: Engine, inputs: Any, seconds: float) -> float:
        timed.append(candidate.name)
        assert speedup(reference, candidate, inputs, seconds) > 0
        return 2.0

    monkeypatch.setattr(training.compress.stopwatch, "speedup", ratio)
    latency = {
        "engine": "onnxruntime", "variant": "int8-u8", "batch_size": 4, "speedup": 1.5,
        "seconds": 0.01,
    }  # fmt: skip
    recipe = digits_recipe(
        {
            "prune.train": {"epochs": 1},
            "prune.ratio": None,
            "prune.latency": latency,
            "prune.round_to": 32,
            "prune.importance": "taylor",
        }
    )
    build(recipe, runs, tmp_path / "repository", until="prune")
    found = results(runs, "prune")
    assert 0 < found["ratio"] < 1
    assert found["macs_removed"] > 0
    assert set(timed) == {"onnxruntime"}


@pytest.mark.parametrize(
    ("needed", "most", "left"), [(1, 5, 1), (3, 5, 3), (5, 5, 5), (4, 3, None)]
)
def test_fewest_layers_that_pass_stay_in_floating_point(
    needed: int, most: int, left: int | None
) -> None:
    order = [f"layer{i}" for i in range(8)]
    found = fewest_float_layers(order, most, lambda layers: len(layers) >= needed)
    assert found == (None if left is None else tuple(order[:left]))


def test_student_learns_from_a_teacher_and_is_compared_with_itself_alone(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    teacher = {"run": str(runs / "tiny-digits")}
    recipe = digits_recipe(
        {"name": "taught", "train.epochs": 1, "distill": {"teacher": teacher}, "prune": None}
    )
    build(recipe, runs, tmp_path / "repository", until="export")
    done = json.loads((runs / "taught" / "distill" / "done.json").read_text())["results"]
    assert len(done["history"]) == 1
    assert "student alone" in done["notes"]["on test images"]
    assert "gain" in (runs / "taught" / "report.html").read_text()
    student = load_network(runs / "taught" / "distill" / "network.safetensors")
    alone = load_network(runs / "taught" / "train" / "network.safetensors")
    assert list(student.state_dict()) == list(alone.state_dict())
    assert not torch.equal(student.linear.weight, alone.linear.weight)


def test_fine_tuning_with_rounding_is_compared_with_fine_tuning_without(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = digits_recipe(
        {
            "export.variants": ["fp32", "int8-s8"],
            "quantize.qat": {"when": "always", "train": {"epochs": 1, "optimizer": {"lr": 0.001}}},
        }
    )
    build(recipe, runs, tmp_path / "repository", until="export")
    found = results(runs, "quantize")
    said = found["notes"]["fine-tuning"]
    assert re.search(r"^ptq: int8-s8 .*; ptq after .*; quantisation-aware .*; kept: ", said)
    assert len(found["history"]) == 1
    network = load_network(runs / "tiny-digits" / "quantize" / "network.safetensors")
    pruned = load_network(runs / "tiny-digits" / "prune" / "network.safetensors")
    assert set(network.state_dict()) == set(pruned.state_dict())


def test_fine_tuning_learns_from_the_network_before(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def watched(current: Build, stage: str, network: nn.Module, *rest: Any, **keys: Any) -> Fitted:
        given[f"{stage} {keys['part']}"] = keys["objective"]
        row = {"epoch": 1, "loss": 1.0, "val_loss": 1.0, "val_top1": 0.5, "seconds": 0.0}
        return Fitted(network.eval(), [row], "fp32")

    for stage in (training.pipeline.stages.prune, training.pipeline.stages.quantize):
        monkeypatch.setattr(stage, "fine_tune", watched)
    changes = {
        "prune.distill": {"temperature": 2, "weight": 0.8},
        "export.variants": ["fp32", "int8-s8"],
        "quantize.qat": {"when": "always", "distill": {}, "train": {"epochs": 1}},
    }
    build(digits_recipe(changes), runs, tmp_path / "repository", until="quantize")
    assert set(given) == {"prune ", "quantize fp32", "quantize qat"}
    assert all(isinstance(objective, Distillation) for objective in given.values())
    taught = given["prune "]
    assert (taught.temperature, taught.weight) == (2, 0.8)
    trained = load_network(runs / "tiny-digits" / "train" / "network.safetensors")
    for name, value in trained.state_dict().items():
        assert torch.equal(taught.teacher.state_dict()[name], value), name
    pruned = load_network(runs / "tiny-digits" / "prune" / "network.safetensors")
    teacher = given["quantize qat"].teacher
    assert torch.equal(teacher.conv1.weight, pruned.conv1.weight)
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    loss = taught(pruned(images), labels, images)
    assert not torch.equal(loss, taught.supervised(pruned(images), labels, images))


def test_step_that_is_measured_decides_and_narrow_stages_lose_blocks(
    runs: Path, digits_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {8: 2.0, 16: 1.0, 24: 4.0, 32: 4.0, 48: 9.0, 64: 16.0}
    monkeypatch.setattr(
        training.compress.channel_step,
        "curve",
        lambda engine, variant: Curve(engine, variant, times),
    )
    changes = {"prune.round_to": "auto", "prune.ratio": 0.4, "prune.train.epochs": 1}
    recipe = digits_recipe(changes)
    built = build(recipe, runs, tmp_path / "repository", until="prune")
    network = load_network(runs / "tiny-digits" / "prune" / "network.safetensors")
    assert len(left_out(network)) == 2
    assert {name.rpartition(".")[0] for name in left_out(network)} == {"layer1"}
    inner = network.get_submodule("layer3.0.conv1")
    assert isinstance(inner, nn.Conv2d)
    assert inner.out_channels == 32
    report = built.report.read_text()
    assert "multiples of 16, the smallest step of channels that saves time in onnxruntime" in report
    assert "2 of 3 blocks are left out, as no layer in them is wider than 16 channels" in report
    again = build(recipe, runs, tmp_path / "repository", until="prune")
    assert again.ran == ()
    monkeypatch.setattr(
        training.compress.channel_step,
        "curve",
        lambda engine, variant: Curve(engine, variant, {width: width**2.0 for width in times}),
    )
    assert build(recipe, runs, tmp_path / "repository", until="prune").ran == ("prune",)
    network = load_network(runs / "tiny-digits" / "prune" / "network.safetensors")
    assert left_out(network) == []
