"""Folders in PASCAL VOC's layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.images.masks.tables import read_table
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.masks.voc import voc_folder
from training.errors import DataError
from training.recipes.masks import VocData


def load(root: Path, **keys: Any) -> Dataset:
    data = VocData.model_validate({"source": "voc", "root": root, **keys})
    return voc_folder(data, EvalTransform(resize=(16, 16)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve images of which eight have masks: six in train, two in val."""
    palette = [0] * 768
    for row in read_table("voc", tmp_path).rows:
        palette[3 * (row.value or 0) : 3 * (row.value or 0) + 3] = row.colour or (0, 0, 0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for index in range(12):
        Image.fromarray(np.full((16, 16, 3), 9 * index, np.uint8)).save(
            tmp_path / f"JPEGImages/{index:02}.jpg"
        )
        if index < 8:
            values = np.zeros((16, 16), np.uint8)
            values[4:9, 4:9], values[9, 4:9] = 1 + index, 255
            image = Image.fromarray(values)
            image.putpalette(palette)
            image.save(tmp_path / f"SegmentationClass/{index:02}.png")
    for split, numbers in (("train", range(6)), ("val", (6, 7)), ("trainval", range(8))):
        lines = "".join(f"{number:02}\n" for number in numbers)
        (tmp_path / f"ImageSets/Segmentation/{split}.txt").write_text(lines)
    return tmp_path


def test_lists_are_the_splits_and_val_is_evaluated_on(root: Path) -> None:
    data = load(root)
    assert data.classes[:2] == ("background", "aeroplane")
    assert len(data.classes) == 21
    assert data.test.names == ["JPEGImages/06.jpg", "JPEGImages/07.jpg"]
    assert (len(data.train), len(data.val)) == (5, 1)
    assert np.unique(data.test.batch([0])[1]).tolist() == [0, 7, 255]
    assert data.ignore_index == 255


def test_masks_in_colours_are_the_same(root: Path) -> None:
    expected = load(root).test.batch([0, 1])[1]
    for file in (root / "SegmentationClass").iterdir():
        Image.open(file).convert("RGB").save(file)
    assert np.array_equal(load(root).test.batch([0, 1])[1], expected)


@pytest.mark.parametrize("named", [True, False])
def test_table_of_an_annotation_tool_names_the_classes(root: Path, named: bool) -> None:
    edge = "edge:224,224,192::\n" if named else ""
    (root / "labelmap.txt").write_text(f"background:0,0,0::\nplane:128,0,0::\n{edge}")
    for file in (root / "SegmentationClass").iterdir():
        values = np.array(Image.open(file))
        image = Image.fromarray(np.where(values == 255, 255, values > 0).astype(np.uint8))
        palette = [0, 0, 0, 128, 0, 0] + [0] * 759 + [224, 224, 192]
        image.putpalette(palette)
        image.save(file)
    data = load(root, ignore=["edge"] if named else [])
    assert data.classes == ("background", "plane")
    assert np.unique(data.test.batch([0])[1]).tolist() == [0, 1, 255]


def test_list_without_masks_is_left_out_and_told(root: Path) -> None:
    (root / "ImageSets/Segmentation/test.txt").write_text("08\n09\n")
    data = load(root)
    assert data.notes == ("test is left out: none of its 2 images has a mask",)
    assert len(data.test) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("00\n08\n", r"train\.txt: no mask for '08' \(1 in all\)"),
        ("00\n99\n", r"train\.txt: no image '99' \(1 in all\)"),
        ("../../x\n", r"train\.txt: no image '../../x'"),
        ("\xff\xfe", r"train\.txt: line 1: UTF-16"),
    ],
)
def test_fault_of_a_list_is_told_with_its_name(root: Path, text: str, said: str) -> None:
    (root / "ImageSets/Segmentation/train.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=said):
        load(root)


def test_missing_folders_and_lists_are_told(root: Path) -> None:
    with pytest.raises(DataError, match=r"no list train\.txt; data\.sets says where the lists are"):
        load(root, sets="ImageSets/Main")
    (root / "JPEGImages").rename(root / "images")
    with pytest.raises(DataError, match="JPEGImages: no such folder; expected JPEGImages/ and"):
        load(root)
