"""Folders of images and masks, and what is read of them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.masks.mask_folder import mask_folder
from training.recipes.masks import MaskFolderData


def load(root: Path, **keys: Any) -> Dataset:
    data = MaskFolderData.model_validate({"source": "mask_folder", "root": root, **keys})
    return mask_folder(data, EvalTransform(resize=(32, 32)))


@pytest.fixture
def root(shapes_root: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(shapes_root, tmp_path / "shapes"))


def binary_pairs(root: Path, ending: str = ".png") -> Path:
    """Twenty grey pictures, each with a bright square, and masks of it in black and white with soft
    edges where the ending is a photograph's."""
    for kind in ("imgs", "labels"):
        (root / kind).mkdir(parents=True)
    for index in range(20):
        mask = np.zeros((40, 40), np.uint8)
        mask[5 + index % 9 : 25, 8:30] = 255
        Image.fromarray(mask // 2 + 60).convert("RGB").save(root / "imgs" / f"{index:02}.jpg")
        Image.fromarray(mask).save(root / "labels" / f"{index:02}_mask{ending}")
    return root


def all_of(data: Dataset) -> dict[str, np.ndarray]:
    """The masks of all splits by their images' names."""
    found: dict[str, np.ndarray] = {}
    for split in (data.train, data.val, data.test):
        masks = split.batch(range(len(split)))[1]
        found |= dict(zip(split.names, masks, strict=True))
    return found
