"""Folders of images and masks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.mask_folder import mask_folder, read_mask
from training.errors import DataError


def load(root: Path, ignore_index: int = 255) -> Dataset:
    return mask_folder(
        root,
        EvalTransform(resize=(32, 32)),
        ignore_index=ignore_index,
        val_fraction=0.1,
        test_fraction=0.2,
        split_seed=0,
    )


@pytest.fixture
def root(shapes_root: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(shapes_root, tmp_path / "shapes"))


def test_masks_are_resized_without_new_values(shapes_root: Path) -> None:
    data = load(shapes_root)
    assert data.classes == ("background", "red", "blue")
    assert data.ignore_index == 255
    assert (len(data.train), len(data.val), len(data.test)) == (28, 4, 8)
    images, masks = data.train.batch(range(28))
    assert images.shape == (28, 32, 32, 3)
    assert masks.shape == (28, 32, 32)
    assert masks.dtype == np.uint8
    assert np.unique(masks).tolist() == [0, 1, 2, 255]


def test_palette_masks_are_read_as_class_numbers(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8))
    image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "palette.png")
    assert read_mask(tmp_path / "palette.png", 3, 255).tolist() == [[0, 1], [2, 255]]


def test_value_beyond_the_classes_names_file_and_value(root: Path) -> None:
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: expected classes 0 to 2 or 255.*got \[7\]"):
        load(root)


def test_colour_mask_is_refused(root: Path) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match="expected 8-bit greyscale or palette, got RGB"):
        load(root)


def test_mask_of_another_size_is_refused(root: Path) -> None:
    Image.fromarray(np.zeros((40, 39), np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match="the image is 40x40, its mask 39x40"):
        load(root)


def test_missing_mask_is_named(root: Path) -> None:
    (root / "masks" / "05.png").unlink()
    with pytest.raises(DataError, match=r"no mask for 05\.png \(1 in all\)"):
        load(root)


def test_truncated_mask_and_image_are_named(root: Path) -> None:
    for kind in ("masks", "images"):
        file = root / kind / "05.png"
        file.write_bytes(file.read_bytes()[:60])
        with pytest.raises(DataError, match=r"images/05\.png"):
            load(root)


def test_last_line_at_the_ignored_index_names_what_is_ignored(root: Path) -> None:
    (root / "classes.txt").write_text("background\nred\nblue\nunlabelled\n")
    for file in (root / "masks").iterdir():
        mask = np.asarray(Image.open(file)).copy()
        mask[mask == 255] = 3
        Image.fromarray(mask).save(file)
    data = mask_folder(
        root,
        EvalTransform(resize=(32, 32)),
        ignore_index=3,
        val_fraction=0.1,
        test_fraction=0.2,
        split_seed=0,
    )
    assert data.classes == ("background", "red", "blue")
    assert 3 in data.train.batch([0])[1]


def test_ignored_index_that_is_a_class_too_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.txt: data\.ignore_index 1 is also .* 'red'"):
        load(root, ignore_index=1)


def test_validation_folder_can_be_what_is_evaluated_on(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).mkdir()
    for kind in ("images", "masks"):
        (root / kind).rename(root / "train" / kind)
        (root / "val" / kind).mkdir()
        for file in sorted((root / "train" / kind).iterdir())[:10]:
            file.rename(root / "val" / kind / file.name)
    data = mask_folder(
        root,
        EvalTransform(resize=(32, 32)),
        ignore_index=255,
        val_fraction=0.1,
        test_fraction=0.2,
        split_seed=0,
        test="val",
    )
    assert (len(data.train), len(data.val), len(data.test)) == (27, 3, 10)
    assert all(name.startswith("val/") for name in data.test.names)
    assert "evaluated on val, val cut from train" in data.description


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("classes.txt", "one class a line"), ("masks", "expected images/ and")],
)
def test_incomplete_folder_is_refused(root: Path, missing: str, expected: str) -> None:
    path = root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=expected):
        load(root)
