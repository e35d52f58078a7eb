"""The memory and disk that a build tells beforehand, and the builds that it refuses."""

import logging
import re
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.conftest import digits_document, merged, shapes_document
from training.data.samples import ArraySamples
from training.errors import DoesNotFit
from training.fitting.step_memory import BatchMemory, answering_memory, training_memory
from training.pipeline import needs
from training.pipeline.pipeline import build
from training.pipeline.stages import data, train
from training.recipes import parse_recipe
from training.recipes.data import Augment, Normalization
from training.recipes.train import Train

Usage = namedtuple("Usage", "total used free")


def trained(network: nn.Module, **changes: Any) -> BatchMemory:
    """The memory of training on images of 32x32 in four classes."""
    config = {"epochs": 1, "batch_size": 8, "precision": "fp32",
              "optimizer": {"name": "sgd", "lr": 0.1}, **changes}  # fmt: skip
    images = np.zeros((8, 32, 32, 3), np.uint8)
    return training_memory(
        network,
        Train.model_validate(config),
        ArraySamples(images, np.arange(8) % 4),
        task="classification",
        classes=4,
        ignore_index=None,
        normalization=Normalization(),
        changes=Augment(),
    )


def wide() -> nn.Module:
    """Answers of 16 channels of 32x32, 65,536 bytes an image, which three layers keep."""
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.Sigmoid(), nn.Conv2d(16, 16, 3, padding=1)]
    return nn.Sequential(*layers, nn.Sigmoid(), nn.Flatten(), nn.Linear(16 * 32 * 32, 4))


def test_memory_of_a_step_is_that_of_its_tensors() -> None:
    weights = sum(value.nbytes for value in wide().parameters())
    found = trained(wide())
    # Four answers are kept for the backward pass, the image beside them.
    assert 4 * 65_536 <= found.image <= 6 * 65_536
    # Gradients and momentum.
    assert 2 * weights <= found.kept <= 2.3 * weights
    assert trained(wide(), optimizer={"name": "adamw", "lr": 0.1}).kept >= 3 * weights
    assert trained(wide(), ema_decay=0.9).kept >= found.kept + weights


def test_largest_batch_is_the_last_that_fits() -> None:
    memory = BatchMemory(kept=1000, image=30)
    assert memory.largest(memory.of(7)) == 7
    assert memory.largest(memory.of(7) - 1) == 6
    assert memory.largest(999) == 0


def test_trying_a_step_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(5)
    network = wide()
    state = torch.random.get_rng_state()
    trained(network, mixup_alpha=0.2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_answers_keep_nothing_but_the_largest_layer() -> None:
    network = wide().eval()
    with torch.inference_mode():
        found = answering_memory(lambda n: network(torch.zeros(n, 3, 32, 32)), network)
    assert 2 * 65_536 <= found.image <= 3.3 * 65_536


def test_build_tells_its_needs_before_it_trains(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shapes_root: Path
) -> None:
    caplog.set_level(logging.INFO)
    document = merged(shapes_document(shapes_root), {"train.epochs": 1})
    recipe = parse_recipe(document, "recipe")
    build(recipe, tmp_path / "runs", tmp_path / "models", until="train", tell=True)
    lines = [line for line in caplog.messages if line.startswith("needs: ")]
    assert re.fullmatch(r"needs: memory for train [\d.]+ [MG]B \([\d.]+ [MG]B free\)", lines[0])
    assert re.match(r"needs: disk of about [\d.]+ MB for ", lines[1])
    assert caplog.messages.index(lines[0]) < caplog.messages.index("train: started")
    caplog.clear()
    build(recipe, tmp_path / "runs", tmp_path / "models", until="train", tell=True)
    assert not [line for line in caplog.messages if line.startswith("needs: ")]


def test_batch_that_does_not_fit_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe(digits_document(), "recipe")
    monkeypatch.setattr(needs, "free_memory", lambda: needs.AROUND + 12_000_000)
    with pytest.raises(DoesNotFit) as error:
        build(recipe, tmp_path / "runs", tmp_path / "models", tell=True)
    found = re.search(
        r"^train.batch_size: 64 images of 16x16 need about .* GB with resnet20_cifar, .* are free; "
        r"the largest batch that fits is (\d+);",
        str(error.value),
    )
    assert found is not None
    assert 4 <= int(found[1]) < 64
    assert not (tmp_path / "runs" / "tiny-digits" / "train").exists()
    # The advice holds.
    fits = parse_recipe(merged(digits_document(), {"train.batch_size": int(found[1])}), "recipe")
    current = data.new_build(fits, tmp_path / "runs", tmp_path / "models")
    needs.tell_needs(current, [train.STAGE])


def test_disk_that_is_too_small_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe(digits_document(), "recipe")
    monkeypatch.setattr(needs, "disk_usage", lambda folder: Usage(0, 0, 1000))
    with pytest.raises(DoesNotFit, match=r"needs about \d+ MB of disk, 1 MB are free"):
        build(recipe, tmp_path / "runs", tmp_path / "models", tell=True)
    assert not (tmp_path / "runs" / "tiny-digits" / "train").exists()
