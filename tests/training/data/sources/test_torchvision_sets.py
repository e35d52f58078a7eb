"""Public data sets, from tiny ones in torchvision's own formats."""

import struct
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from training.data import load_dataset
from training.data.samples import Dataset
from training.data.sources.torchvision_sets import CLASSIFICATION, SEGMENTATION
from training.errors import DataError
from training.recipes import parse_recipe
from training.recipes.data import TorchvisionLabels, TorchvisionMasks


def load(task: str, **data: Any) -> Dataset:
    document = {
        "name": "tiny",
        "task": task,
        "data": {"source": "torchvision", **data},
        "transform": {"resize": [16, 16]},
        "model": {"name": "resnet20_cifar"},
        "train": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}},
    }
    return load_dataset(parse_recipe(document))


def write_idx(path: Path, values: "np.ndarray[Any, Any]") -> None:
    """LeCun's format: two zeros, 8 for uint8, the number of axes, their lengths, the values."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(head + values.astype(np.uint8).tobytes())


def write_fashion(root: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = np.broadcast_to((labels * 20)[:, None, None], (count, 28, 28))
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)


def write_pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "images").mkdir(parents=True)
    (base / "annotations" / "trimaps").mkdir(parents=True)
    for split, count in (("trainval", 20), ("test", 4)):
        lines = []
        for index in range(count):
            name = f"{('Abyssinian', 'beagle')[index % 2]}_{split}{index}"
            lines.append(f"{name} {index % 2 + 1} {index % 2 + 1} 1\n")
            Image.new("RGB", (30, 20), (index, 0, 0)).save(base / "images" / f"{name}.jpg")
            trimap = np.full((20, 30), 2, np.uint8)
            trimap[5:15, 5:20] = 3
            trimap[7:13, 7:18] = 1
            Image.fromarray(trimap).save(base / "annotations" / "trimaps" / f"{name}.png")
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))


def test_recipe_names_what_is_supported() -> None:
    for section, supported in (
        (TorchvisionLabels, CLASSIFICATION),
        (TorchvisionMasks, SEGMENTATION),
    ):
        assert set(get_args(section.model_fields["name"].annotation)) == set(supported)


def test_grey_images_become_rgb_and_validation_is_cut_by_class(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    data = load("classification", name="FashionMNIST", root=str(tmp_path), val_fraction=0.25)
    assert data.classes[0] == "T-shirt/top"
    assert (len(data.train), len(data.val), len(data.test)) == (30, 10, 20)
    images, labels = data.val.batch(range(10))
    assert images.shape == (10, 16, 16, 3)
    assert sorted(labels.tolist()) == list(range(10))
    assert (images == (labels * 20)[:, None, None, None]).all()


def test_pets_give_breeds_or_masks(tmp_path: Path) -> None:
    write_pets(tmp_path)
    breeds = load("classification", name="OxfordIIITPet", root=str(tmp_path))
    assert breeds.classes == ("Abyssinian", "Beagle")
    assert (len(breeds.train), len(breeds.val), len(breeds.test)) == (18, 2, 4)
    pets = load("segmentation", name="OxfordIIITPet", root=str(tmp_path))
    assert pets.classes == ("background", "pet", "border")
    images, masks = pets.test.batch([0])
    assert images.shape == (1, 16, 16, 3)
    assert masks[0, 8, 6] == 1
    assert masks[0, 0, 0] == 0
    assert np.unique(masks).tolist() == [0, 1, 2]


def test_missing_set_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not hold torchvision's CIFAR10; data\.download"):
        load("classification", name="CIFAR10", root=str(tmp_path))


def test_entries_of_tools_are_no_classes_of_a_set_in_folders(tmp_path: Path) -> None:
    base = tmp_path / "eurosat" / "2750"
    for name in ("Forest", "River"):
        (base / name).mkdir(parents=True)
        for index in range(8):
            Image.new("RGB", (16, 16), (index, 0, 0)).save(base / name / f"{index}.jpg")
        (base / name / "._0.jpg").write_bytes(b"junk")
    (base / ".ipynb_checkpoints").mkdir()
    (base / ".ipynb_checkpoints" / "0.jpg").write_bytes(b"junk")
    data = load("classification", name="EuroSAT", root=str(tmp_path))
    assert data.classes == ("Forest", "River")
    assert len(data.train) + len(data.val) + len(data.test) == 16
