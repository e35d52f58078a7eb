"""One foreground before a background: a probability map from the recipe to the served mask."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from serving.engines import EngineOptions, load_engine
from serving.repository.manifest import Normalization, read_manifest
from tests.support.process import ServerProcess
from training.data import load_dataset
from training.data.binary import as_binary
from training.data.samples import ArraySamples, Dataset
from training.errors import RecipeError
from training.fitting.epoch_metrics import build_metric
from training.models.export.deployed import Deployed, output_specs, run_deployed
from training.pipeline.pipeline import Built
from training.recipes import load_recipe

BINARY = Path(__file__).parents[3] / "training" / "recipes" / "connectors-binary.yaml"
PLAIN = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def document(shapes_root: Path) -> dict[str, Any]:
    return {
        "name": "tiny-binary",
        "task": "segmentation",
        "binary": True,
        "data": {"source": "mask_folder", "root": str(shapes_root)},
        "transform": {"resize": [32, 32]},
        "model": {"name": "unet_slim", "options": {"width": 0.125}},
        "train": {
            "epochs": 10,
            "batch_size": 8,
            "loss": {
                "name": "sum",
                "terms": [{"loss": {"name": "bce"}}, {"loss": {"name": "dice"}}],
            },
            "optimizer": {"name": "adamw", "lr": 0.01},
            "schedule": {"name": "one_cycle"},
            "keep": "last",
        },
        "quantize": {"calibration_images": 16},
        "export": {"variants": ["fp32", "int8-u8"]},
        "verify": {"max_drop": 0.5, "batch_sizes": [1], "latency_seconds": 0.02},
    }


@pytest.fixture(scope="module")
def scenes(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the images, with masks of the two classes that the model has."""
    root = tmp_path_factory.mktemp("scenes")
    for name in ("images", "masks"):
        (root / name).mkdir()
    (root / "classes.txt").write_text("background\nforeground\n")
    for file in sorted((shapes_root / "images").iterdir())[:6]:
        (root / "images" / file.name).symlink_to(file)
        mask = np.asarray(Image.open(shapes_root / "masks" / file.name))
        binary = np.where(mask == 255, 255, (mask > 0).astype(np.uint8))
        Image.fromarray(binary).save(root / "masks" / file.name)
    return root


def test_build_measures_the_iou_of_the_foreground(built: Built, repository: Path) -> None:
    manifest = read_manifest(repository / "tiny-binary" / "1")
    assert manifest is not None
    assert (manifest.task, manifest.measure) == ("segmentation", "iou")
    assert manifest.classes == ("background", "foreground")
    for variant in manifest.variants:
        for evidence in variant.evidence.values():
            assert evidence.accuracy.value > 0.5
            assert set(evidence.measures) == {"ods", "ois", "ods_threshold"}
            assert 0 < evidence.measures["ods"] <= evidence.measures["ois"] <= 1
    history = json.loads((built.folder / "metrics.json").read_text())["train"]["history"]
    assert history[-1]["val_iou"] > 0.5
    assert "foreground IoU" in built.report.read_text()


def test_foreground_is_ranked_by_its_probability(built: Built) -> None:
    results = json.loads((built.folder / "metrics.json").read_text())["verify"]
    background, foreground = results["verification"]["measures"]["classes"]
    assert background["auc"] is None
    assert 0.5 < foreground["average_precision"] < foreground["auc"] <= 1
    html = built.report.read_text()
    for column in ("AP", "AUC", "pixels"):
        assert f'<th class="num">{column}</th>' in html
    for curve in ("Precision over recall", "ROC"):
        assert f"{curve}, foreground against the rest" in html
    assert "mean IoU" not in html


def test_published_file_gives_a_probability_map(repository: Path) -> None:
    engine = load_engine(
        "onnxruntime", repository / "tiny-binary" / "1" / "model.onnx", EngineOptions()
    )
    assert [(s.name, s.datatype, s.shape) for s in engine.outputs] == [
        ("probability", "UINT8", (-1, 32, 32))
    ]
    engine.close()


def test_served_probability_becomes_mask_and_areas(
    repository: Path,
    scenes: Path,
    tmp_path: Path,
    start_server: Callable[..., ServerProcess],
    ask: Callable[..., Any],
) -> None:
    server = start_server(repository).wait_ready()
    report = ask(server, "evaluate", "--data", scenes)
    assert report["iou"]["value"] == pytest.approx(report["classes"]["foreground"]["iou"])
    assert report["iou"]["value"] > 0.5
    # The same folder in black and white: nothing is ignored, and 255 is the foreground.
    white = Path(shutil.copytree(scenes, tmp_path / "white"))
    for file in (white / "masks").iterdir():
        Image.fromarray((np.asarray(Image.open(file)) == 1).astype(np.uint8) * 255).save(file)
    assert ask(server, "evaluate", "--data", white)["iou"]["value"] > 0.5
    [answer] = ask(server, "predict", scenes / "images" / "00.png", "--save", tmp_path)
    assert {area["name"] for area in answer["areas"]} == {"background", "foreground"}
    assert all(area["confidence"] >= 0.5 for area in answer["areas"])
    assert np.unique(np.asarray(Image.open(answer["mask"]))).tolist() == [0, 1]


class Fixed(nn.Module):
    """One channel whose value is the mean of the pixel's, less one half."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=1, keepdim=True) - 0.5


def test_probability_is_the_sigmoid_in_255_levels() -> None:
    pixels = np.array([0, 127, 128, 255], np.uint8).reshape(1, 2, 2, 1).repeat(3, axis=3)
    [spec] = output_specs("segmentation", 1, (2, 2))
    deployed = Deployed(Fixed(), "segmentation", PLAIN)
    found = run_deployed(deployed, (spec.name,), pixels)["probability"]
    logits = pixels[..., 0] / 255 - 0.5
    assert found.dtype == np.uint8
    assert found.tolist() == np.floor(255 / (1 + np.exp(-logits)) + 0.5).astype(int).tolist()


def test_all_classes_but_the_first_are_the_foreground() -> None:
    masks = np.array([[[0, 1], [3, 255]]], np.uint8)
    samples = ArraySamples(np.zeros((1, 2, 2, 3), np.uint8), masks)
    data = Dataset("d", "d", ("nothing", "a", "b", "c"), samples, samples, samples, 255)
    binary = as_binary(data)
    assert binary.classes == ("nothing", "foreground")
    assert binary.train.batch([0])[1].tolist() == [[[0, 1], [1, 255]]]
    [loaded] = binary.train.read([0])
    assert not isinstance(loaded, str)
    assert loaded.target.tolist() == [[0, 1], [1, 255]]


def test_what_is_ignored_has_one_number_whatever_the_source_calls_it() -> None:
    masks = np.array([[[0, 1], [3, 2]]], np.uint8)
    samples = ArraySamples(np.zeros((1, 2, 2, 3), np.uint8), masks)
    data = Dataset("d", "d", ("nothing", "a", "b"), samples, samples, samples, 3)
    binary = as_binary(data)
    assert binary.ignore_index == 255
    [mask] = binary.test.batch([0])[1]
    assert (mask.tolist(), mask.dtype) == ([[0, 1], [255, 1]], np.uint8)
    assert as_binary(replace(data, ignore_index=None)).ignore_index is None


def test_shipped_recipe_joins_all_connectors() -> None:
    small = [f"data.{name}=2" for name in ("train", "val", "test")]
    data = load_dataset(load_recipe(BINARY, [*small, "data.size=32", "transform.resize=[32, 32]"]))
    assert data.classes == ("background", "foreground")
    assert np.unique(data.train.batch([0, 1])[1]).tolist() == [0, 1]


def test_validation_metric_is_the_foregrounds_iou() -> None:
    logits = torch.tensor([[[[2.0, -1.0], [1.0, 3.0]]]])
    masks = torch.tensor([[[1, 1], [0, 255]]])
    metric = build_metric("segmentation", 1, 255)
    metric.update(logits, masks)
    assert float(metric.compute()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "kl"])
def test_loss_between_classes_is_refused_with_those_that_suit(loss: str) -> None:
    with pytest.raises(RecipeError, match=f"train.loss: {loss} compares classes .* bce"):
        load_recipe(BINARY, [f"train.loss={{name: {loss}}}"])


def test_embedding_loss_is_refused_for_masks() -> None:
    with pytest.raises(RecipeError, match="arcface compares embeddings; segmentation has none"):
        load_recipe(BINARY, ["train.loss={name: arcface}"])


def test_classification_is_not_binary() -> None:
    with pytest.raises(RecipeError, match="binary: unknown key"):
        load_recipe(BINARY.with_name("digits-resnet20.yaml"), ["binary=true"])
