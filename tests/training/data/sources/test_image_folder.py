"""Image folders: splits, evaluation pixels, and files that are not what they seem."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data import samples
from training.data.samples import Dataset, FileSamples
from training.data.sources.image_folder import image_folder
from training.errors import DataError

TRANSFORM = EvalTransform(resize=(8, 8))


def write_images(folder: Path, count: int, value: int = 100) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.full((12, 10, 3), value + index, np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def load(root: Path) -> Dataset:
    return image_folder(root, TRANSFORM, val_fraction=0.2, test_fraction=0.2, split_seed=0)


def test_splits_are_cut_by_class_where_there_are_none(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 10)
    write_images(tmp_path / "dog", 20)
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) + len(data.test) == 30
    _, labels = data.test.batch(range(len(data.test)))
    assert np.bincount(labels).tolist() == [2, 4]
    names = [*data.train.names, *data.val.names, *data.test.names]
    assert len(set(names)) == 30


def test_given_splits_are_used_and_the_missing_one_is_cut(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 3)):
        write_images(tmp_path / split / "cat", count)
        write_images(tmp_path / split / "dog", count)
    data = load(tmp_path)
    assert len(data.test) == 6
    assert all(name.startswith("test/") for name in data.test.names)
    assert len(data.train) == 16
    assert len(data.val) == 4


def test_pixels_are_the_servers(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    data = load(tmp_path)
    images, _ = data.train.batch([0])
    file = tmp_path / data.train.names[0]
    assert images.shape == (1, 8, 8, 3)
    assert np.array_equal(images[0], load_image(file.read_bytes(), TRANSFORM).pixels)


def test_corrupt_files_are_reported_by_name(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 6)
    write_images(tmp_path / "dog", 6)
    (tmp_path / "cat" / "3.png").write_bytes((tmp_path / "cat" / "3.png").read_bytes()[:40])
    (tmp_path / "dog" / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert "2 of 13 files cannot be used" in str(error.value)
    assert "cat/3.png: " in str(error.value)
    assert "dog/empty.jpg: image is empty" in str(error.value)


def test_images_that_do_not_fit_in_memory_are_decoded_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    kept, _ = load(tmp_path).train.batch([1, 0])
    monkeypatch.setattr(samples, "MEMORY_LIMIT_BYTES", 100)
    data = load(tmp_path)
    assert isinstance(data.train, FileSamples)
    decoded, labels = data.train.batch([1, 0])
    assert np.array_equal(decoded, kept)
    assert labels.dtype == np.int64
    (tmp_path / data.train.names[0]).write_bytes(b"gone bad")
    with pytest.raises(DataError, match=data.train.names[0]):
        data.train.batch([0])


@pytest.mark.parametrize("folders", [[], ["only"]])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, folders: list[str]) -> None:
    for folder in folders:
        write_images(tmp_path / folder, 3)
    with pytest.raises(DataError, match="expected at least two folders"):
        load(tmp_path)


def test_missing_root_and_strange_class_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    for name in ("train/cat", "train/dog", "test/cat", "test/cow"):
        write_images(tmp_path / name, 4)
    with pytest.raises(DataError, match=r"\['cow'\] are not classes of train/"):
        load(tmp_path)
