"""A warning where a network is far more accurate on validation than on test images, since choices
are made by the former."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.evaluation.report.report_file import read_report
from training.models.checkpoint import NETWORK_FILE
from training.pipeline.bound import Bound
from training.pipeline.pipeline import Built, build
from training.pipeline.searching.search import search
from training.recipes import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Images without any rule. Those of val/ are those of train/."""
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 60)):
        for name in ("left", "right"):
            folder = tmp_path / "noise" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    shutil.copytree(tmp_path / "noise" / "train", tmp_path / "noise" / "val")
    return tmp_path / "noise"


@pytest.mark.usefixtures("any_latency_will_do")
def test_validation_images_that_the_network_knows_are_told(
    noise: Path, digits_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {
        "data": {"source": "image_folder", "root": str(noise)},
        "train.epochs": 20,
        "train.batch_size": 20,
        "train.keep": "best",
        "prune": None,
        "quantize": None,
        "export.variants": ["fp32"],
        "verify.min_accuracy": 0.0,
        "verify.max_drop": 1.0,
        "search": {"engine": "onnxruntime", "seconds": 0.01, "trials": 1, "max_ratio": 0},
    }
    places = tmp_path / "runs", tmp_path / "repository"
    built = search(digits_recipe(changes), Bound("drop", 100), *places)
    said = warnings_of(caplog)
    assert [line.partition(": ")[0] for line in said] == ["search", "verify"]
    assert all("% on 40 validation images, and " in line for line in said)
    [note] = [note for note in read_report(built.folder).notes if note.startswith("verify")]
    assert "new to the network" in note
    caplog.clear()
    # A network that is taken as its weights make it has no training that could tell.
    weights = built.folder / "train" / NETWORK_FILE
    given = {"train": "none", "model.pretrained": str(weights), "name": "as-given", "search": None}
    build(digits_recipe({**changes, **given}), *places)
    assert len(warnings_of(caplog)) == 1


def test_splits_that_a_network_answers_alike_are_not_worth_a_word(digits_built: Built) -> None:
    assert not [note for note in read_report(digits_built.folder).notes if "verify" in note]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "may have seen" in r.getMessage()]
