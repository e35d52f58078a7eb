"""Stage keys change when any file of a source does, and not without."""

import os
from pathlib import Path
from typing import Any

import pytest

from training.data import fingerprint
from training.recipes import parse_recipe

FILES = (
    "classes.txt", "images/a.png", "masks/a.png", "cat/a.jpg", "metadata.csv", "list.csv",
    "names.txt", "labels.txt", "x.json", "annotations/train.json",
    "ImageSets/Segmentation/train.txt",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*FILES, "elsewhere.csv"):
        place = tmp_path / ("data" if name in FILES else "") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("path,label\ncat/a.jpg,0\n" if name.endswith(".csv") else "x")
    return tmp_path / "data"


def key(task: str, data: dict[str, Any]) -> str:
    document = {
        "name": "tiny",
        "task": task,
        "data": data,
        "transform": {"resize": [16, 16]},
        "model": {"name": "resnet20_cifar" if task == "classification" else "unet_slim"},
        "train": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}},
    }
    return fingerprint(parse_recipe(document))


@pytest.mark.parametrize(
    ("task", "data", "changed"),
    [
        ("classification", {"source": "image_folder"}, ["cat/a.jpg", "metadata.csv"]),
        (
            "classification",
            {"source": "table", "file": "list.csv", "classes": "names.txt"},
            ["list.csv", "cat/a.jpg", "names.txt"],
        ),
        (
            "segmentation",
            {"source": "mask_folder", "colours": "../elsewhere.csv"},
            ["classes.txt", "images/a.png", "masks/a.png", "../elsewhere.csv"],
        ),
        ("segmentation", {"source": "voc"}, ["ImageSets/Segmentation/train.txt", "masks/a.png"]),
        ("segmentation", {"source": "coco"}, ["annotations/train.json", "images/a.png"]),
        ("segmentation", {"source": "labelme"}, ["x.json", "labels.txt"]),
    ],
    ids=lambda value: value.get("source") if isinstance(value, dict) else "",
)
def test_every_file_counts(root: Path, task: str, data: dict[str, Any], changed: list[str]) -> None:
    paths = {
        name: str(root / data[name]) for name in ("file", "classes", "colours") if name in data
    }
    data = {**data, **paths} if "file" in data else {**data, **paths, "root": str(root)}
    seen = {key(task, data)}
    assert seen == {key(task, data)}
    for name in changed:
        status = (root / name).stat()
        os.utime(root / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
        seen.add(key(task, data))
    assert len(seen) == 1 + len(changed)


def test_every_root_counts(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in "ab"]
    for root in roots:
        (root / "cat").mkdir(parents=True)
        (root / "cat" / "0.png").touch()
    data = {"source": "image_folder", "root": [str(root) for root in roots]}
    before = key("classification", data)
    (roots[1] / "cat" / "1.png").touch()
    assert key("classification", data) != before
