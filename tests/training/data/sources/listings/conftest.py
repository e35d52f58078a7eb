"""Twenty pictures, and tables of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.listings.table import table_dataset
from training.recipes.data import TableData


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty pictures, 00.png to 19.png."""
    (tmp_path / "pictures").mkdir()
    for index in range(20):
        pixels = np.full((9, 12, 3), 10 * index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index:02}.png")
    return tmp_path


def rows(labels: list[str], heading: str = "path,label") -> str:
    lines = [f"pictures/{index:02}.png,{label}" for index, label in enumerate(labels)]
    return "\n".join([heading, *lines]) + "\n"


def load(folder: Path, text: str, encoding: str = "utf-8", **keys: Any) -> Dataset:
    (folder / "list.csv").write_text(text, encoding=encoding)
    return loaded(folder / "list.csv", **keys)


def loaded(file: Path, **keys: Any) -> Dataset:
    document = {"source": "table", "file": file, "val_fraction": 0.2, "test_fraction": 0.2, **keys}
    return table_dataset(TableData.model_validate(document), EvalTransform(resize=(8, 8)))


def listed(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def split_sizes(data: Dataset) -> tuple[int, int, int]:
    return len(data.train), len(data.val), len(data.test)
