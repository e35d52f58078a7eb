"""A recipe that trains in a second, and studies of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from training.pipeline.study.definition import load_study
from training.pipeline.study.run import Studied, run_study

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "white": (200, 200, 200)}

RunStudy = Callable[..., Studied]


@pytest.fixture(scope="session")
def colours_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve noisy 8x8 images of each of four colours."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for index in range(12):
            pixels = np.asarray(colour) + rng.integers(0, 55, (8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index:02}.png")
    return root


@pytest.fixture
def document(colours_root: Path) -> dict[str, Any]:
    """The recipe, in plain dicts."""
    return {
        "name": "colours",
        "task": "classification",
        "data": {"source": "image_folder", "root": str(colours_root), "val_fraction": 0.25},
        "transform": {"resize": [8, 8]},
        "model": {"name": "resnet20_cifar"},
        "train": {
            "epochs": 3,
            "batch_size": 8,
            "optimizer": {"name": "sgd", "lr": 0.02},
            "precision": "fp32",
        },
    }


@pytest.fixture
def studied(document: dict[str, Any], tmp_path: Path) -> RunStudy:
    """Runs a study, given in plain dicts, on the recipe; its files are in tmp_path/runs."""

    def run(study: dict[str, Any], **changes: Any) -> Studied:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        recipe = {**document, "train": {**document["train"], **changes}}
        return run_study(recipe, load_study(path), path, tmp_path / "runs")

    return run
