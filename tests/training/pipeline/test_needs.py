"""The memory and disk that a build tells beforehand, and the builds that it refuses."""

import logging
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from tests.support.exported import export_foreign
from tests.training.conftest import digits_document, merged, shapes_document
from training.data.samples import ArraySamples
from training.errors import DoesNotFit
from training.fitting.step_memory import BatchMemory, answering_memory, training_memory
from training.pipeline import file_network, needs
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
        weights = network.parameters()
        found = answering_memory(lambda n: network(torch.zeros(n, 3, 32, 32)), weights)
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


def test_fine_tuning_with_rounding_is_told_apart_from_calibration() -> None:
    tuned = needs.Need("quantize", 0, batch=BatchMemory(kept=1000, image=30))
    assert [tuned.title, needs.Need("quantize", 0).title] == ["quantize.qat", "quantize"]


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


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_network_that_comes_as_a_file_tells_what_its_answers_take(
    ending: str, tmp_path: Path
) -> None:
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.Sigmoid(), nn.Conv2d(32, 32, 3, padding=1)]
    network = nn.Sequential(*layers, nn.AvgPool2d(16), nn.Flatten(), nn.Linear(32, 10)).eval()
    file = export_foreign(network, tmp_path / f"net.{ending}", 16)
    key = "onnx" if ending == "onnx" else "exported"
    kept = ("name", "task", "seed", "data", "transform")
    document = {name: value for name, value in digits_document().items() if name in kept}
    document |= {"model": {key: str(file)}, "train": "none"}
    current = data.new_build(parse_recipe(document, "recipe"), tmp_path / "runs", tmp_path)
    # Two layers' answers of 16x16 in 32 channels live together.
    layer = 32 * 16 * 16 * 4
    assert 2 * layer <= file_network.answering(current).image <= 3.3 * layer


# The limit leaves room for some ten images of a batch, and is that of a real process.
LIMITED = """
import re, resource, sys, yaml
from pathlib import Path
from training.errors import DoesNotFit
from training.pipeline import needs
from training.pipeline.pipeline import build
from training.recipes import parse_recipe
document, out = yaml.safe_load(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
def limited():
    # Anew for each build: the first leaves some memory behind.
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = taken + needs.AROUND + (200 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    return build(parse_recipe(document), out, out, until="train", tell=True)
try:
    limited()
except DoesNotFit as error:
    said = str(error)
print(said)
document["train"]["batch_size"] = int(re.search(r"that fits is (\\d+)", said)[1])
print(list(out.rglob("train")))
print(*limited().ran)
"""


def test_build_under_a_real_limit_is_refused_before_training_with_a_batch_that_fits(
    tmp_path: Path,
) -> None:
    document = merged(
        digits_document(), {"transform.resize": [96, 96], "train.batch_size": 64, "train.epochs": 1}
    )
    for index in range(60):
        folder = tmp_path / "pictures" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (4 * index, 90, 20)).save(folder / f"{index}.png")
    document["data"] = {"source": "image_folder", "root": str(tmp_path / "pictures")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "recipe.yaml"), str(tmp_path / "runs")],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    refused, trained, ran = done.stdout.strip().splitlines()[-3:]
    found = re.search(r"64 images of 96x96 need .* the largest batch that fits is (\d+);", refused)
    assert found is not None, refused
    assert 4 <= int(found[1]) < 64
    assert trained == "[]"
    assert ran == "train"
