"""CSV files of paths and labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.listings.table import table_dataset
from training.errors import DataError
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


def test_splits_are_cut_by_label(folder: Path) -> None:
    data = load(folder, rows(["cat", "dog"] * 10))
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.val), len(data.test)) == (12, 4, 4)
    images, labels = data.test.batch(range(4))
    assert labels.tolist().count(0) == 2
    for name, image, label in zip(data.test.names, images, labels, strict=True):
        index = int(Path(name).stem)
        assert label == index % 2
        assert (image == 10 * index).all()


def test_split_column_decides(folder: Path) -> None:
    labels = [f"{'ab'[i % 2]},{('train', 'train', 'val', 'test')[i // 5]}" for i in range(20)]
    data = load(folder, rows(labels, "path,label,split"))
    assert data.val.names == [f"pictures/{i:02}.png" for i in range(10, 15)]
    assert data.test.names == [f"pictures/{i:02}.png" for i in range(15, 20)]
    assert "splits as given" in data.description


def test_columns_may_be_called_otherwise_and_numbers_are_in_their_order(folder: Path) -> None:
    text = rows([str(i % 4 * 5) for i in range(20)], "file,kind")
    data = load(folder, text, path_column="file", label_column="kind")
    assert data.classes == ("0", "5", "10", "15")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rows(["a", "b"], "where,label"), r"its columns are where, label; data\.path_column says"),
        (rows(["a", "a"]), "expected at least two labels, got 1"),
        (rows(["a", ""]), "line 3: no label"),
        (rows(["a,train", "b,dev"], "path,label,split"), "expected train, val, test; got 'dev'"),
        (rows(["a", "b"] * 11), r"2 of 22 files cannot be used: .*20\.png: cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(folder: Path, text: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        load(folder, text)


def test_space_around_names_and_values_is_no_part_of_them(folder: Path) -> None:
    labels = [f" {('cat', 'dog ')[i % 2]} , train " for i in range(20)]
    data = load(folder, rows(labels, "path, label , split"))
    assert data.classes == ("cat", "dog")


def test_splits_have_the_names_that_people_give_them(folder: Path) -> None:
    names = ("Train", "training", "VALID", "Testing")
    labels = [f"{'ab'[i % 2]},{names[i // 5]}" for i in range(20)]
    data = load(folder, rows(labels, "path,label,split"))
    assert (len(data.train), len(data.val), len(data.test)) == (10, 5, 5)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_byte_order_mark_is_no_part_of_the_heading(folder: Path, encoding: str) -> None:
    data = load(folder, rows(["grün", "rot"] * 10), encoding=encoding)
    assert data.classes == ("grün", "rot")


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("latin-1", "line 2: byte 0xfc is not UTF-8"), ("utf-16", "line 1: UTF-16, expected")],
)
def test_another_encoding_is_named(folder: Path, encoding: str, said: str) -> None:
    with pytest.raises(DataError, match=rf"list\.csv: {said}"):
        load(folder, rows(["grün", "rot"] * 10), encoding=encoding)


def test_label_without_an_image_for_training_is_refused(folder: Path) -> None:
    labels = [f"{'ab'[i >= 15]},{('train', 'val', 'test')[i // 7]}" for i in range(20)]
    with pytest.raises(DataError, match="no images for train of b "):
        load(folder, rows(labels, "path,label,split"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list\.csv: cannot be read: No such file"):
        loaded(tmp_path / "list.csv")


def test_column_is_found_whatever_the_case_of_its_name(folder: Path) -> None:
    labels = [f"{'ab'[i % 2]},{('train', 'train', 'val', 'test')[i // 5]}" for i in range(20)]
    data = load(folder, rows(labels, "Path,LABEL,Split"))
    assert (len(data.train), len(data.val), len(data.test)) == (10, 5, 5)


def test_split_column_that_the_recipe_names_must_be_there(folder: Path) -> None:
    with pytest.raises(DataError, match="no column 'subset'; its columns are path, label"):
        load(folder, rows(["a", "b"] * 10), split_column="subset")


def test_empty_lines_are_no_rows(folder: Path) -> None:
    data = load(folder, rows(["a", "b"] * 10) + "\n  \n,\n")
    assert len(data.train) + len(data.val) + len(data.test) == 20


def test_value_past_the_last_column_is_refused(folder: Path) -> None:
    text = rows(["a", "b"] * 10)
    assert load(folder, text.replace(",b\n", ",b,\n")).classes == ("a", "b")
    with pytest.raises(DataError, match="line 4: 3 values in 2 columns"):
        load(folder, text.replace("02.png,a\n", "02.png,a, wild\n"))


def test_too_few_images_to_cut_are_told(folder: Path) -> None:
    with pytest.raises(DataError, match="no images for val; train has too few to cut some"):
        load(folder, rows(["a", "b"]))
