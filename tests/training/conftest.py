"""Tiny recipes and folders: whole builds in seconds."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.process import ServerProcess
from training.pipeline.pipeline import Built, build
from training.recipes import Recipe, parse_recipe


def digits_document() -> dict[str, Any]:
    """ResNet-20 on digits of 16×16 pixels, trained just enough to be right most of the time."""
    return {
        "name": "tiny-digits",
        "task": "classification",
        "seed": 3,
        "data": {"source": "digits"},
        "transform": {"resize": [16, 16]},
        "model": {"name": "resnet20_cifar"},
        "train": {
            "epochs": 3,
            "batch_size": 64,
            "optimizer": {"name": "sgd", "lr": 0.05},
            "schedule": {"name": "one_cycle"},
            "keep": "last",
        },
        "prune": {
            "ratio": 0.3,
            "round_to": 8,
            "train": {"epochs": 2, "optimizer": {"lr": 0.02}},
        },
        "quantize": {"calibration_images": 64},
        "export": {"variants": ["fp32", "int8-s8", "int8-u8"]},
        "verify": {"max_drop": 0.2, "batch_sizes": [1, 4], "latency_seconds": 0.02},
        "publish": {"max_batch_size": 8},
    }


def shapes_document(root: Path) -> dict[str, Any]:
    """U-Net on bright squares, from a folder of images and masks."""
    return {
        "name": "tiny-shapes",
        "task": "segmentation",
        "data": {"source": "mask_folder", "root": str(root)},
        "transform": {"resize": [32, 32]},
        "model": {"name": "unet_slim", "options": {"width": 0.125}},
        "train": {
            "epochs": 4,
            "batch_size": 8,
            "loss": {
                "name": "sum",
                "terms": [{"loss": {"name": "cross_entropy"}}, {"loss": {"name": "dice"}}],
            },
            "optimizer": {"name": "adamw", "lr": 0.005},
            "keep": "last",
        },
        "quantize": {"calibration_images": 16},
        "export": {"variants": ["fp32", "int8-u8"]},
        "verify": {"max_drop": 0.5, "batch_sizes": [1], "latency_seconds": 0.02},
    }


def merged(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with values at dotted paths replaced."""
    copy = {
        key: dict(value) if isinstance(value, dict) else value for key, value in document.items()
    }
    for path, value in changes.items():
        *sections, last = path.split(".")
        here = copy
        for section in sections:
            here[section] = dict(here[section])
            here = here[section]
        here[last] = value
    return copy


@pytest.fixture
def digits_recipe() -> Callable[..., Recipe]:
    """A tiny recipe with changes such as {"train.epochs": 1}."""
    return lambda changes=None: parse_recipe(merged(digits_document(), changes or {}))


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images with a red or a blue square, and their masks; a frame of ignored pixels."""
    root = tmp_path_factory.mktemp("shapes")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("background\nred\nblue\n")
    rng = np.random.default_rng(0)
    for index in range(40):
        image = rng.integers(0, 60, (40, 40, 3), np.uint8)
        mask = np.zeros((40, 40), np.uint8)
        top, left = rng.integers(4, 18, 2)
        kind = index % 2
        image[top : top + 16, left : left + 16, 2 * kind] = 240
        mask[top : top + 16, left : left + 16] = kind + 1
        mask[0] = 255
        Image.fromarray(image).save(root / "images" / f"{index:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{index:02}.png")
    return root


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's builds leave runs/ and repository/."""
    return tmp_path_factory.mktemp("builds")


@pytest.fixture(scope="session")
def digits_built(workplace: Path) -> Built:
    """A whole classification build, published."""
    recipe = parse_recipe(digits_document())
    return build(recipe, workplace / "runs", workplace / "repository")


@pytest.fixture(scope="session")
def shapes_built(workplace: Path, shapes_root: Path) -> Built:
    """A whole segmentation build, published."""
    recipe = parse_recipe(shapes_document(shapes_root))
    return build(recipe, workplace / "runs", workplace / "repository")


@pytest.fixture
def runs(digits_built: Built, tmp_path: Path) -> Path:
    """A copy of the finished classification build's folder that a test may change."""
    shutil.copytree(digits_built.folder, tmp_path / "runs" / "tiny-digits")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def built(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A whole build of the recipe that the module's fixture `document` is, published alone."""
    folder = tmp_path_factory.mktemp(document["name"])
    return build(parse_recipe(document), folder / "runs", folder / "repository")


@pytest.fixture(scope="module")
def repository(built: Built) -> Path:
    """Where `built` was published."""
    return built.folder.parent.parent / "repository"


@pytest.fixture
def ask(document: dict[str, Any]) -> Callable[..., Any]:
    """What a command says of the model of `document` on a server: ask(server, "predict", FILE)."""

    def answer(server: ServerProcess, *arguments: str | Path) -> Any:
        command = [sys.executable, "-m", "convserve", *map(str, arguments)]
        command += ["--model", document["name"], "--url", server.url, "--json"]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    return answer
