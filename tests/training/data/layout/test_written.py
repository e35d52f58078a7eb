"""Test images as folders: `evaluate` reads of them what the build's source reads."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from serving.cli.labelled import class_folders, identity_folders, mask_pairs, mask_reading
from serving.repository.manifest import EvalTransform
from tests.training.pipeline.initial import folders
from training.cli import shards
from training.cli.extract import app
from training.data import load_originals, load_source
from training.data.sources import torchvision_sets
from training.recipes import load_recipe, parse_recipe


def extracted(
    tmp_path: Path, task: str, data: dict[str, object], **more: object
) -> tuple[str, int]:
    """What the command says, and its status, for a recipe beside OUT."""
    document = {
        "name": "x",
        "task": task,
        "data": data,
        "transform": {"resize": [40, 40]},
        "model": {"name": "unet" if task == "segmentation" else "resnet18"},
        "train": "none",
        **more,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    done = CliRunner().invoke(
        app, ["extract", str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]
    )
    return done.output, done.exit_code


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (folders.class_folders, "image_folder"),
        (folders.csv_table, "table"),
        (folders.parquet, "table"),
    ],
)
def test_images_lie_in_the_folder_of_their_class(
    make: Callable[[Path], None], source: str, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    make(root)
    place = {"root": str(root)}
    if source == "table":
        files = [file for file in root.iterdir() if file.suffix in (".csv", ".parquet")]
        place = {"file": [str(file) for file in sorted(files)]}
    data = {"source": source, **place}
    output, code = extracted(tmp_path, "classification", data)
    assert code == 0, output
    document = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    found = load_source(parse_recipe(document))
    images, left_out = class_folders(tmp_path / "out", found.classes)
    assert not left_out
    labels = found.test.batch(range(len(found.test)))[1]
    assert sorted(image.label for image in images) == sorted(labels.tolist())


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("make", "source"),
    [(folders.coco, "coco"), (folders.labelme, "labelme"), (folders.voc, "voc")],
)
def test_masks_have_the_classes_of_the_model(
    make: Callable[[Path], None], source: str, binary: bool, tmp_path: Path
) -> None:
    make(tmp_path / "set")
    data = {"source": source, "root": str(tmp_path / "set")}
    output, code = extracted(tmp_path, "segmentation", data, binary=binary)
    assert code == 0, output
    document = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    found = load_source(parse_recipe(document))
    pairs = mask_pairs(tmp_path / "out").pairs
    reading = mask_reading(tmp_path / "out", found.classes, [pair.mask for pair in pairs])
    masks = found.test.batch(range(len(found.test)))[1]
    assert len(pairs) == len(masks)
    for pair, mask in zip(pairs, masks, strict=True):
        read, unnamed = reading.read(pair.mask)
        assert not unnamed
        counted = mask != found.ignore_index
        assert read.shape == mask.shape
        assert np.array_equal(read[counted], mask[counted])
        assert (read[~counted] == -1).all()


def test_people_who_are_in_no_training_image_have_folders(tmp_path: Path) -> None:
    folders.people(tmp_path / "set")
    data = {"source": "identity_folder", "root": str(tmp_path / "set")}
    output, code = extracted(tmp_path, "embedding", data)
    assert code == 0, output
    images, names, _ = identity_folders(tmp_path / "out")
    assert len(names) == len({image.label for image in images}) > 1


def images_in(out: Path, names: Sequence[str]) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """The class of each image that was written, and its pixels."""
    images, left_out = class_folders(out, names)
    assert not left_out
    return [(names[image.label], np.asarray(Image.open(image.path))) for image in images]


@pytest.mark.parametrize("channels", [3, 1])
def test_computed_images_are_written_as_they_are(channels: int, tmp_path: Path) -> None:
    data = {"source": "digits"}
    transform = {"resize": 40, "crop": [28, 28], "channels": channels}
    output, code = extracted(tmp_path, "classification", data, transform=transform)
    assert code == 0, output
    found = load_originals(load_recipe(tmp_path / "recipe.yaml"))
    pixels, labels = found.test.batch(range(len(found.test)))
    written = images_in(tmp_path / "out", found.classes)
    assert pixels.shape[1:] == (32, 32, channels)
    assert sorted(found.classes[label] for label in labels) == sorted(name for name, _ in written)
    assert {image.tobytes() for image in pixels} == {image.tobytes() for _, image in written}


def test_rendered_masks_are_written_at_the_size_of_their_images(tmp_path: Path) -> None:
    data = {"source": "connectors", "size": 48, "train": 2, "val": 2, "test": 3}
    output, code = extracted(tmp_path, "segmentation", data)
    assert code == 0, output
    found = load_originals(load_recipe(tmp_path / "recipe.yaml"))
    pairs = mask_pairs(tmp_path / "out").pairs
    reading = mask_reading(tmp_path / "out", found.classes, [pair.mask for pair in pairs])
    images, masks = found.test.batch(range(3))
    assert images.shape == (3, 48, 48, 3)
    for pair, image, mask in zip(pairs, images, masks, strict=True):
        assert np.array_equal(np.asarray(Image.open(pair.path)), image)
        assert np.array_equal(reading.read(pair.mask)[0], mask)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_images_of_shards_are_those_that_lay_in_files(task: str, tmp_path: Path) -> None:
    (folders.masks if task == "segmentation" else folders.class_folders)(tmp_path / "set")
    done = CliRunner().invoke(
        shards.app, ["shards", str(tmp_path / "set"), str(tmp_path / "shards")]
    )
    assert done.exit_code == 0, done.output
    data = {"source": "shards", "train": str(tmp_path / "shards")}
    output, code = extracted(tmp_path, task, data)
    assert code == 0, output
    found = load_source(load_recipe(tmp_path / "recipe.yaml"))
    given = {file.read_bytes() for file in (tmp_path / "set").rglob("*.*")}
    if task == "classification":
        images, _ = class_folders(tmp_path / "out", found.classes)
        files = [image.path for image in images]
        labels = found.test.batch(range(len(found.test)))[1]
        assert sorted(image.label for image in images) == sorted(labels.tolist())
    else:
        pairs = mask_pairs(tmp_path / "out").pairs
        files = [pair.path for pair in pairs]
        reading = mask_reading(tmp_path / "out", found.classes, [pair.mask for pair in pairs])
        masks = found.test.batch(range(len(found.test)))[1]
        for pair, mask in zip(pairs, masks, strict=True):
            assert np.array_equal(reading.read(pair.mask)[0], mask)
    assert len(files) == len(found.test)
    assert {file.read_bytes() for file in files} <= given


def test_image_of_a_public_set_becomes_a_png(tmp_path: Path) -> None:
    reader = torchvision_sets._Reader(EvalTransform(resize=(8, 8)), None)
    shown = np.random.default_rng(0).integers(0, 256, (12, 10), np.uint8)
    content, label = reader.original(([(Image.fromarray(shown), 3)], "test", 0))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content)))[..., 1], shown)
    assert label == 3


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    folders.class_folders(tmp_path / "set")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    data = {"source": "image_folder", "root": str(tmp_path / "set")}
    output, code = extracted(tmp_path, "classification", data)
    assert (code, "out is not empty" in output) == (1, True)
    assert "loading torch" not in output
