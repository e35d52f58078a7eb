"""Test images as folders: `evaluate` reads of them what the build's source reads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from serving.cli.labelled import class_folders, identity_folders, mask_pairs, mask_reading
from tests.training.pipeline.initial import folders
from training.cli.extract import app
from training.data import load_source
from training.recipes import parse_recipe


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


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    output, code = extracted(tmp_path, "classification", {"source": "digits"})
    assert (code, "scikit-learn digits: its images are no files" in output) == (1, True)
    folders.class_folders(tmp_path / "set")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    data = {"source": "image_folder", "root": str(tmp_path / "set")}
    output, code = extracted(tmp_path, "classification", data)
    assert (code, "out is not empty" in output) == (1, True)
