"""Folders of images and masks."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.masks.mask_folder import mask_folder
from training.errors import DataError
from training.recipes.masks import MaskFolderData


def load(root: Path, **keys: Any) -> Dataset:
    data = MaskFolderData.model_validate({"source": "mask_folder", "root": root, **keys})
    return mask_folder(data, EvalTransform(resize=(32, 32)))


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


def test_value_beyond_the_classes_names_file_and_value(root: Path) -> None:
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: expected classes 0 to 2 or 255.*got \[7\]"):
        load(root)


def test_colour_mask_without_a_table_is_refused(root: Path) -> None:
    Image.fromarray(np.full((40, 40, 3), (9, 0, 0), np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: is in colours, and nothing names them"):
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
    data = load(root, ignore_index=3)
    assert data.classes == ("background", "red", "blue")
    assert 3 in data.train.batch([0])[1]


def test_ignored_index_that_is_a_class_too_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.txt: ignore_index 1 is also .* 'red'"):
        load(root, ignore_index=1)


def test_validation_folder_can_be_what_is_evaluated_on(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).mkdir()
    for kind in ("images", "masks"):
        (root / kind).rename(root / "train" / kind)
        (root / "val" / kind).mkdir()
        for file in sorted((root / "train" / kind).iterdir())[:10]:
            file.rename(root / "val" / kind / file.name)
    data = load(root, ignore_index=255, test="val")
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


def two_classes(root: Path, values: tuple[int, int], name: str = "classes.txt") -> Path:
    """The same masks with two classes, by values for the background and the foreground."""
    (root / name).write_text("background\nperson\n")
    for file in (root / "masks").iterdir():
        mask = np.asarray(Image.open(file))
        Image.fromarray(np.where(mask == 1, *reversed(values)).astype(np.uint8)).save(file)
    return root


def test_white_is_the_second_of_two_classes_in_masks_of_black_and_white(root: Path) -> None:
    data = load(two_classes(root, (0, 255)))
    assert data.classes == ("background", "person")
    assert data.ignore_index is None
    assert data.notes == ("masks hold 0 and 255 alone: 255 is 'person'",)
    assert np.unique(data.train.batch(range(len(data.train)))[1]).tolist() == [0, 1]


def test_white_is_ignored_where_masks_hold_the_second_class(root: Path) -> None:
    two_classes(root, (0, 1))
    Image.fromarray(np.full((40, 40), 255, np.uint8)).save(root / "masks" / "05.png")
    data = load(root)
    assert data.ignore_index == 255
    assert not data.notes


def test_white_stays_ignored_where_the_recipe_says_so(root: Path) -> None:
    data = load(two_classes(root, (0, 255)), ignore_index=255)
    assert data.ignore_index == 255
    assert np.unique(data.train.batch(range(len(data.train)))[1]).tolist() == [0, 255]


def test_third_value_beside_black_and_white_is_refused(root: Path) -> None:
    two_classes(root, (0, 255))
    Image.fromarray(np.full((40, 40), 128, np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: expected classes 0 to 1 or 255 .* got \[128\]"):
        load(root)


def test_masks_of_one_bit_are_read(root: Path) -> None:
    for file in (root / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(file)) == 1).save(file)
    (root / "classes.txt").write_text("background\nperson\n")
    data = load(root)
    assert np.unique(data.train.batch(range(len(data.train)))[1]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"background\n\nred\nblue\n", "classes.txt: line 2: empty"),
        (b"background\nred\nred \n", "classes.txt: line 3: 'red' is line 2 too"),
        (
            "background\nrot\ngrün\n".encode("latin-1"),
            "classes.txt: line 3: byte 0xfc is not UTF-8",
        ),
        ("background\nred\nblue\n".encode("utf-16"), "classes.txt: line 1: UTF-16"),
    ],
)
def test_list_of_classes_that_cannot_be_meant_is_refused(
    root: Path, text: bytes, said: str
) -> None:
    (root / "classes.txt").write_bytes(text)
    with pytest.raises(DataError, match=said):
        load(root)


def test_byte_order_mark_is_no_part_of_the_first_class(root: Path) -> None:
    (root / "classes.txt").write_text("background\nred\nblue\n\n", encoding="utf-8-sig")
    assert load(root).classes == ("background", "red", "blue")


def test_entries_of_tools_need_no_mask(root: Path) -> None:
    for name in ("._00.png", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/00.png", "@eaDir/0.jpg"):
        for kind in ("images", "masks"):
            (root / kind / name).parent.mkdir(exist_ok=True)
            (root / kind / name).write_bytes(b"junk")
    (root / "images" / "a.tif").touch()
    (root / ".ipynb_checkpoints").mkdir()
    data = load(root)
    assert len(data.train) + len(data.val) + len(data.test) == 40
    assert data.left_out == {".tif": 1}


@pytest.mark.parametrize("inner", [False, True], ids=["Train/images", "images/Train"])
def test_split_folders_have_the_names_that_people_give_them(root: Path, inner: bool) -> None:
    splits = ("Train", "Valid", "Test")
    for kind in ("images", "masks"):
        files = sorted((root / kind).iterdir())
        for number, split in enumerate(splits):
            target = root / kind / split if inner else root / split / kind
            target.mkdir(parents=True)
            for file in files[number::3]:
                file.rename(target / file.name)
        if not inner:
            (root / kind).rmdir()
    data = load(root)
    assert (len(data.train), len(data.val), len(data.test)) == (14, 13, 13)
    assert "splits as given" in data.description
    assert np.unique(data.test.batch([0, 1])[1]).tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train_set", "test_set"), "test_set/, train_set/ look like splits"),
        (("val", "test"), "got test/, val/; expected a folder train beside them"),
    ],
)
def test_splits_in_images_are_not_mixed_in_silence(
    root: Path, names: tuple[str, str], said: str
) -> None:
    for kind in ("images", "masks"):
        move_into(root / kind, names)
    with pytest.raises(DataError, match=said):
        load(root)


def test_folder_beside_the_splits_in_images_is_left_out(root: Path) -> None:
    for kind in ("images", "masks"):
        move_into(root / kind, ("train", "test", "extra", "more"))
    data = load(root)
    assert len(data.test) == 10
    assert data.left_out == {"in extra/": 10, "in more/": 10}


def move_into(folder: Path, names: tuple[str, ...]) -> None:
    """Deals the files of a folder to folders in it."""
    files = sorted(folder.iterdir())
    for number, name in enumerate(names):
        (folder / name).mkdir()
        for file in files[number :: len(names)]:
            file.rename(folder / name / file.name)
