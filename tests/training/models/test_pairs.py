"""Every network with every step: it loses channels, and its file answers as torch does in each
engine, in FP32 and in INT8.

Networks are tried small: most of their channels are pruned first, which is the first test too, so
that files are small and engines load them at once; images are small, and classes few. Those that
another network stands for (`tested_as`) are marked slow.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from serving.base.evaluation import answer_distance
from serving.base.tensor import Array
from serving.engines import EngineOptions, load_engine
from training.compress.calibration import choose_calibration
from training.compress.channel_pruner import ChannelPruner
from training.compress.quantize import quantize
from training.data.readers import Pixels
from training.data.samples import ArraySamples
from training.errors import RecipeError
from training.models import (
    MODELS,
    STEPS,
    build_model,
    count_macs,
    drop_auxiliary_heads,
    unsupported_steps,
)
from training.models.checkpoint import load_network, save_network
from training.models.export.deployed import Deployed, input_specs, output_specs, run_deployed
from training.models.export.to_onnx import check_interface, export_onnx
from training.models.export.variants import Scheme
from training.models.networks import check_network, coverage
from training.recipes import parse_recipe
from training.recipes.compress import Prune
from training.recipes.data import Normalization

CLASSES = 5
NORMALIZATION = Normalization()
BATCHES = (3, 1)
ENGINES = ("onnxruntime", "openvino")
# What an engine is fast in, and so what it is given.
SCHEMES: dict[str, Scheme] = {"onnxruntime": "u8", "openvino": "s8"}
# Relative for logits, the share of the pixels for masks.
FLOAT_TOLERANCE = {"classification": 5e-4, "segmentation": 1e-3}
# Weights are random, so classes are nearly tied and rounding counts for more than after a training.
# A graph that is wrong is off by more: by 1 where it gives zeros, by 1.4 where it gives others.
INT8_TOLERANCE = 0.6
# Gates (squeeze-and-excitation, SiLU) multiply what rounding to 8 bits leaves, block by block,
# with random weights into other answers. In INT8 only that the file runs is looked at.
GATED = ("efficientnet",)
ATTENTIVE = (
    ("resnet20_cifar", "se"),
    ("resnet20_cifar", "cbam"),
    ("resnet50", "se"),
    ("vgg11_bn", "se"),
)
"""Cases beside those without options."""


@dataclass(frozen=True)
class Case:
    """A network after its steps in torch, and its FP32 file. `kept` is the share of the
    multiply-accumulates that pruning left, None where the network cannot be pruned."""

    name: str
    options: dict[str, Any]
    network: nn.Module
    kept: float | None
    size: tuple[int, int]
    images: Pixels
    expected: Array
    file: Path


def cases() -> Iterator[Any]:
    for name, entry in MODELS.items():
        marks = [pytest.mark.slow] if entry.tested_as else []
        yield pytest.param((name, {}), id=name, marks=marks)
    for name, attention in ATTENTIVE:
        yield pytest.param((name, {"attention": attention}), id=f"{name}-{attention}")


def small_size(name: str) -> tuple[int, int]:
    entry = MODELS[name]
    if entry.task == "segmentation":
        # No multiple of any stride: padded inside.
        return 40, 56
    side = max(32, entry.smallest_side)
    return side, side


def small_options(name: str) -> dict[str, Any]:
    return {"image_size": 32} if "image_size" in MODELS[name].options else {}


@pytest.fixture(scope="module", params=cases())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, options = request.param
    task, size = MODELS[name].task, small_size(name)
    torch.manual_seed(0)
    network = build_model(name, CLASSES, **options, **small_options(name)).eval()
    drop_auxiliary_heads(network)
    kept = None
    if "prune" in unsupported_steps(name, **options):
        cut_repeated_blocks(network)
    else:
        kept = pruned(network, size)
    images = blotches(16, size)
    settle_batch_norms(name, network, images)
    deployed = Deployed(network, task, NORMALIZATION)
    outputs = output_specs(task, CLASSES, size)
    file = tmp_path_factory.mktemp(name) / "model.onnx"
    export_onnx(deployed, input_specs(size), outputs, 20, file)
    names = tuple(spec.name for spec in outputs)
    expected = run_deployed(deployed, names, images)[names[0]]
    return Case(name, options, network, kept, size, images, expected, file)


def blotches(count: int, size: tuple[int, int]) -> Pixels:
    """Images that differ as photos do, in large areas: the average of noise is always the same, and
    a network would have nothing to tell them apart by."""
    rng = np.random.default_rng(0)
    height, width = size
    coarse = rng.integers(0, 200, (count, 4, 4, 3), np.uint8)
    large = coarse.repeat(-(-height // 4), axis=1).repeat(-(-width // 4), axis=2)
    noise = rng.integers(0, 56, (count, height, width, 3), np.uint8)
    images: Pixels = large[:, :height, :width] + noise
    return images


def pruned(network: nn.Module, size: tuple[int, int]) -> float:
    before = count_macs(network, size)
    train = {"epochs": 1, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 1}}
    config = Prune.model_validate({"ratio": 0.7, "round_to": 8, "train": train})
    ChannelPruner(network, config, 0.7, size, lambda _: None).step()
    return count_macs(network, size) / before


def cut_repeated_blocks(network: Any) -> None:
    """What cannot be pruned is made small by leaving out blocks that are there many times."""
    if hasattr(network, "encoder"):
        network.encoder.layers = network.encoder.layers[:2]


def settle_batch_norms(name: str, network: nn.Module, images: Pixels) -> None:
    """Statistics of the images, as after a training: with those of a fresh network, answers of deep
    ones would be all alike. Nothing else is in training: whole blocks are left out there at random,
    and statistics of the rest are of no use once all are in."""
    for module in network.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
            module.train()
    pixels = images / 255
    if name.startswith(GATED):
        # Gates multiply: a scale that is not the network's own would grow with every block. Others
        # take statistics of small numbers, which leave more between their answers and rounding.
        pixels = (pixels - np.array(NORMALIZATION.mean)) / np.array(NORMALIZATION.std)
    with torch.no_grad():
        network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    network.eval()


def answers(engine: str, file: Path, precision: str, images: Pixels) -> Array:
    options = EngineOptions(precision=precision, max_batch_size=len(images))  # type: ignore[arg-type]
    loaded = load_engine(engine, file, options)
    try:
        return loaded.infer({"image": images})[loaded.outputs[0].name].copy()
    finally:
        loaded.close()


def test_pruned_network_is_smaller_and_survives_a_file(case: Case, tmp_path: Path) -> None:
    if case.kept is None:
        assert "prune" in unsupported_steps(case.name, **case.options)
        return
    assert case.kept < 0.95
    save_network(case.network, tmp_path / "network.safetensors")
    pixels = torch.from_numpy(case.images[:2]).permute(0, 3, 1, 2) / 255
    loaded = load_network(tmp_path / "network.safetensors")
    saved = case.network.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[key]) for key, value in loaded.state_dict().items())
    with torch.no_grad():
        answer = loaded(pixels)
        # What pruning left may lie otherwise in memory, for which there are other kernels.
        torch.testing.assert_close(answer, case.network(pixels), rtol=1e-4, atol=1e-9)
    shape = case.size if MODELS[case.name].task == "segmentation" else ()
    assert answer.shape == (2, CLASSES, *shape)


@pytest.mark.parametrize("engine", ENGINES)
def test_exported_file_answers_as_torch_at_any_batch(case: Case, engine: str) -> None:
    outputs = output_specs(MODELS[case.name].task, CLASSES, case.size)
    check_interface(case.file, input_specs(case.size), outputs)
    for batch in BATCHES:
        got = answers(engine, case.file, "fp32", case.images[:batch])
        distance = answer_distance(case.expected[:batch], got)
        assert distance <= FLOAT_TOLERANCE[MODELS[case.name].task]


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_file_answers_nearly_as_fp32(case: Case, engine: str, tmp_path: Path) -> None:
    samples = ArraySamples(case.images, np.zeros(len(case.images), np.int64))
    path = tmp_path / "int8.onnx"
    quantize(case.file, path, SCHEMES[engine], "minmax", choose_calibration(samples, 16, 0))
    got = answers(engine, path, "int8", case.images)
    assert got.shape == case.expected.shape
    assert np.isfinite(got).all()
    if not case.name.startswith(GATED):
        assert answer_distance(case.expected, got) <= INT8_TOLERANCE


def recipe_with(name: str, size: tuple[int, int], options: dict[str, Any], **sections: Any) -> Any:
    task = MODELS[name].task
    source = "digits" if task == "classification" else "connectors"
    document = {
        "name": "pair",
        "task": task,
        "data": {"source": source},
        "transform": {"resize": list(size)},
        "model": {"name": name, "options": options},
        "train": {"epochs": 1, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 0.1}},
        **sections,
    }
    return parse_recipe(document)


ASKED: dict[str, dict[str, Any]] = {
    "prune": {"prune": {"ratio": 0.3}},
    "int8": {"quantize": {}, "export": {"variants": ["fp32", "int8-s8"]}},
    "onnxruntime": {},
    "openvino": {},
}


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.unsupported])
def test_recipe_refuses_the_steps_that_a_network_cannot_take(name: str) -> None:
    options = small_options(name)
    check_network(recipe_with(name, small_size(name), options))
    for step, reason in MODELS[name].unsupported.items():
        assert reason
        with pytest.raises(RecipeError, match=f"{name} does not support {step}: "):
            check_network(recipe_with(name, small_size(name), options, **ASKED[step]))


def test_recipe_refuses_to_prune_with_cbam() -> None:
    options = {"attention": "cbam"}
    check_network(recipe_with("resnet18", (32, 32), options))
    with pytest.raises(RecipeError, match="resnet18 does not support prune: cbam's spatial"):
        check_network(recipe_with("resnet18", (32, 32), options, **ASKED["prune"]))


def test_what_stands_for_a_network_is_tested_itself() -> None:
    for name, entry in MODELS.items():
        assert all(not MODELS[other].tested_as for other in entry.tested_as), name


def test_coverage_says_what_the_tests_do() -> None:
    assert coverage("resnet18") == dict.fromkeys(STEPS, "tested")
    assert coverage("resnet34") == dict.fromkeys(STEPS, "as resnet18")
    assert coverage("unet_resnet50")["int8"] == "as unet_resnet18 and resnet50"
    assert coverage("vit_b_16")["prune"].startswith("refused: the heads")
