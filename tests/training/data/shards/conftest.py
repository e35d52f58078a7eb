"""Small sets of images, as shards here and in an object store."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.object_store import ENVIRONMENT, CuttingProxy, object_store, upload
from training.data import load_source
from training.data.samples import files_alone
from training.data.shards.write import Limits, write_shards
from training.data.storage.store import Store
from training.recipes import parse_recipe
from training.recipes.recipe import Recipe


def recipe(data: dict[str, object], **changes: object) -> Recipe:
    return parse_recipe({
        "name": "colours",
        "task": "classification",
        "data": data,
        "transform": {"resize": [16, 16]},
        "model": {"name": "resnet20_cifar"},
        "train": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.02}},
        **changes,
    })  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tables of shards without an index go there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "convserve" / "shards"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, in three splits."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 6), ("test", 6)):
        for channel, name in ((0, "red"), (2, "blue")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 120, (20, 24, 3), np.uint8)
                image[:, :, channel] += 100
                Image.fromarray(image).save(root / split / name / f"{index:02}.png")
    return root


def written(pictures: Path, out: str, store: Store | None = None) -> None:
    with files_alone():
        data = load_source(recipe({"source": "image_folder", "root": str(pictures)}))
    write_shards(data, out, Limits(25, 1_000_000), 0, store or Store())


@pytest.fixture(scope="session")
def shard_folder(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pictures` as shards: three of train (25, 25 and 10 images), one of val, one of test."""
    out = tmp_path_factory.mktemp("shards")
    written(pictures, str(out))
    return out


@pytest.fixture(scope="session")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def store_endpoint(environment: None) -> Iterator[str]:
    with object_store() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def remote_shards(store_endpoint: str, shard_folder: Path) -> str:
    """The URL of `shard_folder` in the store."""
    return upload(store_endpoint, shard_folder, "shards")


@pytest.fixture
def proxy(store_endpoint: str) -> Iterator[CuttingProxy]:
    running = CuttingProxy(store_endpoint)
    yield running
    running.close()
