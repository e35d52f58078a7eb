"""Shards and folders in the stores of Google and Azure, as far as their emulators are installed."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.object_store import BUCKET, azure_store, azurite, google_store
from tests.training.data.shards.conftest import recipe, written
from training.data import fingerprint, load_source
from training.data.storage.store import Store
from training.errors import DataError
from training.recipes.remote.storage import Storage

Place = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module", params=["gs", "az"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """The URL of a bucket, and the section `storage` with which it is reached."""
    if request.param == "gs":
        if importlib.util.find_spec("gcp_storage_emulator") is None:
            pytest.skip("gcp-storage-emulator is not installed")
        with google_store() as endpoint:
            yield f"gs://{BUCKET}", {"endpoint_url": endpoint, "anon": True}
    else:
        if azurite() is None:
            pytest.skip("Azurite is not installed (npm install azurite)")
        with (
            azure_store(tmp_path_factory.mktemp("azurite")) as told,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("AZURE_STORAGE_CONNECTION_STRING", told)
            yield f"az://{BUCKET}", {}


def test_shards_in_a_cloud_are_those_on_disk(
    place: Place, pictures: Path, shard_folder: Path
) -> None:
    bucket, storage = place
    written(pictures, f"{bucket}/set", Store(Storage(**storage)))
    far = load_source(recipe({"source": "shards", "train": f"{bucket}/set", "storage": storage}))
    near = load_source(recipe({"source": "shards", "train": str(shard_folder)}))
    for split in ("train", "val", "test"):
        ours, theirs = getattr(far, split), getattr(near, split)
        assert list(ours.names) == list(theirs.names)
        for one, other in zip(
            *(samples.batch(range(len(samples))) for samples in (ours, theirs)), strict=True
        ):
            assert np.array_equal(one, other)


def test_a_folder_in_a_cloud_is_read_and_its_changes_are_seen(place: Place, tmp_path: Path) -> None:
    bucket, storage = place
    store = Store(Storage(**storage))

    def put(name: str, level: int) -> None:
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / "x.png")
        store.put(tmp_path / "x.png", f"{bucket}/folder/{name}")

    for number in range(12):
        put(f"dark/{number}.png", 20)
        put(f"light/{number}.png", 220)
    data = recipe({"source": "remote_folder", "root": f"{bucket}/folder", "storage": storage})
    found = load_source(data)
    images, labels = found.train.batch(range(len(found.train)))
    assert [image.mean() > 128 for image in images] == labels.astype(bool).tolist()
    former = fingerprint(data)
    put("dark/0.png", 30)
    assert fingerprint(data) != former
    with pytest.raises(DataError, match="folder/none: is not there"):
        store.read(f"{bucket}/folder/none", 0, 4)
