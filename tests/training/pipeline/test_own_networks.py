"""Whole builds of a user's own network and of one of timm, each taught by the other."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from serving.repository.manifest import read_manifest
from tests.training.conftest import digits_document, merged
from training.errors import BuildError, RecipeError
from training.models import build_model
from training.pipeline.pipeline import build
from training.recipes import load_recipe

NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        features = self.body(x)
        return {"logits": self.head(features.amax((2, 3))), "features": features}

def small(num_classes):
    return Net(num_classes)

class Choosing(Net):
    def forward(self, x):
        y = super().forward(x)["logits"]
        return y if y.sum() > 0 else y * 2

def choosing(num_classes):
    return Choosing(num_classes)

class Counting(Net):
    steps = 0

    def forward(self, x):
        Counting.steps += 1
        return super().forward(x)["logits"] if Counting.steps < 6 else self.gone

def counting(num_classes):
    Counting.steps = 0
    return Counting(num_classes)
"""
OWN = {"factory": "ownnets:small", "output": "logits"}
TIMM = {"name": "timm/test_resnet"}
SMALL = {"transform.resize": [32, 32], "train.optimizer.lr": 0.005}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ownnets.py").write_text(NETS)
    return tmp_path


def recipe(folder: Path, model: dict[str, Any], **changes: Any) -> Any:
    document = merged(digits_document(), {"model": model, "train.epochs": 1, **changes})
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(document))
    return load_recipe(file)


def taught(folder: Path, student: dict[str, Any], teacher: dict[str, Any]) -> None:
    asked = recipe(
        folder,
        student,
        **SMALL,
        distill={"teacher": {"network": teacher}, "train": {"epochs": 1}},
        prune={"ratio": 0.3, "round_to": 4, "train": {"epochs": 1}},
        verify={"max_drop": 1.0, "min_agreement": 0, "min_accuracy": 0, "batch_sizes": [1],
                "latency_seconds": 0.02},
    )  # fmt: skip
    built = build(asked, folder / "runs", folder / "repository")
    assert built.ran[:4] == ("data", "train", "distill", "prune")
    assert built.version == 1
    manifest = read_manifest(folder / "repository" / "tiny-digits" / "1")
    assert manifest.architecture == asked.model.architecture
    again = build(asked, folder / "runs", folder / "repository")
    assert again.ran == ()


def test_own_network_is_taught_by_timm_pruned_and_published(folder: Path) -> None:
    torch.save(build_model(TIMM["name"], 10).state_dict(), folder / "teacher.pth")
    taught(folder, OWN, TIMM | {"pretrained": str(folder / "teacher.pth")})
    # Another body of the network is another training.
    with (folder / "ownnets.py").open("a") as stream:
        stream.write("\n# changed\n")
    changed = build(recipe(folder, OWN, **SMALL), folder / "runs", folder / "repository", "train")
    assert changed.ran == ("train",)


@pytest.mark.slow
def test_timm_is_taught_by_an_own_network_pruned_and_published(folder: Path) -> None:
    load = recipe(folder, OWN)
    build(load, folder / "runs", folder / "repository", "train")
    saved = folder / "runs" / "tiny-digits" / "train" / "network.safetensors"
    (folder / "teacher.safetensors").write_bytes(saved.read_bytes())
    (folder / "runs").rename(folder / "former")
    taught(
        folder,
        TIMM,
        OWN | {"folder": str(folder), "pretrained": str(folder / "teacher.safetensors")},
    )


def test_a_network_that_torch_cannot_export_is_refused_before_it_is_trained(folder: Path) -> None:
    asked = recipe(folder, {"factory": "ownnets:choosing"})
    with pytest.raises(BuildError, match=r"torch cannot export the network: .*data-dependent"):
        build(asked, folder / "runs", folder / "repository")
    assert not (folder / "runs" / "tiny-digits" / "train" / "checkpoints").exists()


def test_an_error_in_training_is_told_with_its_line(folder: Path) -> None:
    asked = recipe(folder, {"factory": "ownnets:counting"})
    with pytest.raises(RecipeError, match=r"no attribute 'gone' \(.*ownnets.py, line 33\)"):
        build(asked, folder / "runs", folder / "repository", "train")


def test_a_fixed_number_of_classes_is_held_against_the_data(folder: Path) -> None:
    with (folder / "ownnets.py").open("a") as stream:
        stream.write("\ndef four():\n    return Choosing(4)\n")
    asked = recipe(folder, {"factory": "ownnets:four"})
    with pytest.raises(RecipeError, match=r"with float32 \[2, 4\]; expected float32 \[2, 10\]"):
        build(asked, folder / "runs", folder / "repository", "train")
