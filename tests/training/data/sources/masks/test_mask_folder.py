"""Folders of images and masks: pairs, splits, and what is left out or refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.repository.manifest import EvalTransform
from tests.training.data.sources.masks.conftest import binary_pairs, load
from training.data.sources.masks.mask_folder import mask_folder
from training.errors import DataError
from training.recipes.masks import MaskFolderData


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


def test_pairs_in_black_and_white_need_nothing_but_their_folder(tmp_path: Path) -> None:
    data = load(binary_pairs(tmp_path / "d"))
    assert data.classes == ("background", "foreground")
    assert data.notes == ("masks hold 0 and 255 alone: 255 is 'foreground'",)
    assert "imgs/NAME.*, labels/NAME_mask.*" in data.description
    assert np.unique(data.train.batch([0])[1]).tolist() == [0, 1]


def test_grey_images_keep_their_masks(tmp_path: Path) -> None:
    document = {"source": "mask_folder", "root": binary_pairs(tmp_path / "d")}
    grey = EvalTransform(resize=(32, 32), channels=1)
    data = mask_folder(MaskFolderData.model_validate(document), grey)
    images, masks = data.train.batch([0, 1])
    assert (images.shape, masks.shape) == ((2, 32, 32, 1), (2, 32, 32))


def test_masks_of_another_size_are_scaled_and_counted(root: Path) -> None:
    file = root / "masks" / "05.png"
    Image.open(file).resize((121, 120), Image.Resampling.NEAREST).save(file)
    assert load(root).remarks.lines()[0] == (
        "masks of another size than their images, scaled to it (1 file, first images/05.png)"
    )


def test_labels_beside_the_splits_are_not_left_out(tmp_path: Path) -> None:
    for split in ("train", "test"):
        binary_pairs(tmp_path / split)
        (tmp_path / split / "labels").rename(tmp_path / f"{split}_labels")
        for file in (tmp_path / split / "imgs").iterdir():
            file.rename(tmp_path / split / file.name)
        (tmp_path / split / "imgs").rmdir()
    data = load(tmp_path)
    assert (len(data.test), data.left_out) == (20, {})
