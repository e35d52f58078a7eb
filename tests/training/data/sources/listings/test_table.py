"""Tables of paths, or of images, and labels."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from serving.repository.manifest import EvalTransform
from training.data import samples
from training.data.samples import Dataset
from training.data.sources.listings import parquet_rows
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


def listed(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def split_sizes(data: Dataset) -> tuple[int, int, int]:
    return len(data.train), len(data.val), len(data.test)


def test_tabs_and_json_lines_are_tables_too(folder: Path) -> None:
    labels = ["cat, tabby", "dog"] * 10
    tabs = rows(labels).replace(".png,", ".png\t").replace("path,label", "path\tlabel")
    lines = "".join(
        json.dumps({"file_name": f"pictures/{i:02}.png", "extra": [1], "category": label}) + "\n"
        for i, label in enumerate(labels)
    )
    for file in (listed(folder, "l.tsv", tabs), listed(folder, "l.jsonl", "\n" + lines)):
        data = loaded(file)
        assert data.classes == ("cat, tabby", "dog")
        assert split_sizes(data) == (12, 4, 4)
        assert data.test.names[0].startswith("pictures/")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ("[1]", r"line 2: expected an object, got \[1\]"),
        ('{"path": "a.png"}', "line 2: label: expected a text or whole number, got None"),
        ('{"path": "a.png", "label": NaN}', "line 2: label: .* got nan"),
        ('{"path": ["a"], "label": 1}', "line 2: path: .* got \\['a'\\]"),
        ('{"path": "../a.png", "label": 1}', r"line 2: '../a\.png' leads out of .*; data\.root is"),
    ],
)
def test_line_that_is_no_row_is_named(folder: Path, line: str, said: str) -> None:
    first = json.dumps({"path": "pictures/00.png", "label": 1})
    with pytest.raises(DataError, match=rf"l\.jsonl: {said}"):
        loaded(listed(folder, "l.jsonl", f"{first}\n{line}\n"))


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../x.png", "..\\..\\x"])
def test_path_that_leaves_the_root_is_named(folder: Path, path: str) -> None:
    with pytest.raises(
        DataError, match=r"line 3: .* leads out of .*data\.root is the folder of all"
    ):
        load(folder, f"path,label\npictures/00.png,a\n{path},b\n")


def test_paths_may_be_absolute_or_have_a_root_of_their_own(folder: Path) -> None:
    text = rows(["a", "b"] * 10)
    assert split_sizes(load(folder, text.replace("pictures", f"{folder}/pictures"))) == (12, 4, 4)
    (folder / "lists").mkdir()
    file = listed(folder / "lists", "l.csv", text.replace("pictures/", ""))
    assert split_sizes(loaded(file, root=folder / "pictures")) == (12, 4, 4)


def test_numbers_have_the_names_of_a_list(folder: Path) -> None:
    text = rows(["0", "2"] * 10)
    names = listed(folder, "names.txt", "ant\nbee\ncat\n")
    with pytest.raises(DataError, match=r"no images for train of bee \(1 of 3 classes\)"):
        load(folder, text, classes=names)
    data = load(folder, rows(["0", "1"] * 10), classes=["ant", "bee"])
    assert data.classes == ("ant", "bee")
    with pytest.raises(DataError, match="label 2, but 2 classes have names, from 0"):
        load(folder, text, classes=["ant", "bee"])
    with pytest.raises(DataError, match=r"label 'x' is none of data\.classes"):
        load(folder, rows(["ant", "x"] * 10), classes=["ant", "bee"])


def test_tables_of_a_folder_are_splits_by_their_names(folder: Path) -> None:
    lines = rows(["a", "b"] * 10).splitlines()
    (folder / "data").mkdir()
    for name, some in (("train-0", lines[1:9]), ("train-1", lines[9:13]), ("test-0", lines[13:])):
        listed(folder / "data", f"{name}.csv", "\n".join([lines[0], *some]) + "\n")
    data = loaded(folder / "data", root=folder)
    assert split_sizes(data) == (8, 4, 8)
    files = [folder / "data" / f"{name}.csv" for name in ("train-0", "train-1", "test-0")]
    assert split_sizes(loaded(tuple(files), root=folder)) == (8, 4, 8)
    listed(folder / "data", "others.csv", "\n".join(lines[:2]))
    with pytest.raises(DataError, match=r"others\.csv: its name begins with no split"):
        loaded(folder / "data", root=folder)
    with pytest.raises(DataError, match="pictures: no table; expected"):
        loaded(folder / "pictures")


def hugging_face(folder: Path, name: str, rows_of: range, *, in_bytes: bool = True) -> Path:
    """Images as Hugging Face's datasets store them, in row groups of three."""
    images = [
        {"bytes": file.read_bytes() if in_bytes else None, "path": f"pictures/{file.name}"}
        for file in sorted((folder / "pictures").iterdir())
    ]
    features = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee"]}}
    table = pa.table({
        "image": [images[i] for i in rows_of],
        "label": [i % 2 for i in rows_of],
        "width": [12 for _ in rows_of],
    })  # fmt: skip
    schema = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(schema), folder / name, row_group_size=3)
    return folder / name


@pytest.mark.parametrize("in_bytes", [True, False])
def test_parquet_holds_images_and_the_names_of_labels(folder: Path, in_bytes: bool) -> None:
    data = loaded(hugging_face(folder, "t.parquet", range(20), in_bytes=in_bytes))
    assert data.classes == ("ant", "bee")
    assert split_sizes(data) == (12, 4, 4)
    images, labels = data.train.batch(range(12))
    for image, label in zip(images, labels, strict=True):
        assert label == image[0, 0, 0] // 10 % 2
    assert len(set(data.train.names)) == 12


def test_parquet_of_several_files_is_read_file_by_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MEMORY_LIMIT_BYTES", 100)
    hugging_face(folder, "train-00000-of-00001.parquet", range(16))
    hugging_face(folder, "test-00000-of-00001.parquet", range(16, 20))
    data = loaded(folder)
    assert split_sizes(data) == (12, 4, 4)
    images, labels = data.test.batch([3, 0])
    assert images[:, 0, 0, 0].tolist() == [190, 160]
    assert labels.tolist() == [1, 0]


def test_parquet_of_bytes_and_of_paths_with_texts_as_labels(folder: Path) -> None:
    files = sorted((folder / "pictures").iterdir())
    kinds = ["cat", "dog"] * 10
    columns = {
        "img": [file.read_bytes() for file in files],
        "path": [f"pictures/{file.name}" for file in files],
    }
    for column, values in columns.items():
        pq.write_table(pa.table({column: values, "kind": kinds}), folder / "t.parquet")
        data = loaded(folder / "t.parquet", label_column="kind")
        assert data.classes == ("cat", "dog")
        assert split_sizes(data) == (12, 4, 4)


def test_fault_of_a_parquet_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "t.parquet"
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read"):
        loaded(file)
    file.write_bytes(b"PAR1 no table")
    with pytest.raises(DataError, match=r"t\.parquet: not a Parquet file"):
        loaded(file)
    for table, said in (
        ({"image": [1], "label": [1]}, "column 'image': expected texts, bytes or"),
        (
            {"image": ["a"], "label": [1.5]},
            "column 'label': expected texts or whole numbers, got 'double'",
        ),
        ({"image": ["a", None], "label": [1, 2]}, "row 2: image: expected an image, got None"),
        ({"image": ["/etc/passwd"], "label": [1]}, "row 1: '/etc/passwd' leads out of"),
        ({"image": ["a"], "kind": [1]}, r"no column label, .*data\.label_column says which"),
    ):
        pq.write_table(pa.table(table), file)
        with pytest.raises(DataError, match=rf"t\.parquet: {said}"):
            loaded(file)
    hugging_face(folder, "t.parquet", range(20))
    damaged = bytearray(file.read_bytes())
    damaged[200:900] = bytes(700)
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=r"t\.parquet: row 1: cannot be read|files cannot be used"):
        loaded(file)
    hugging_face(folder, "t.parquet", range(20))
    monkeypatch.setattr(parquet_rows, "_GROUP_BYTES", 10)
    with pytest.raises(DataError, match="row group 0 has 0 MiB, at most 0 are read at a time"):
        loaded(file)


def test_images_that_the_disk_cannot_hold_are_refused_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(folder)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    with pytest.raises(DataError, match="which has 0 MiB left; TMPDIR names another folder"):
        loaded(hugging_face(folder, "t.parquet", range(20)))


def repeated(file: Path, values: list[bytes | str], count: int) -> Path:
    """A file of a few kilobytes whose rows repeat the values of a dictionary."""
    kind = pa.binary() if isinstance(values[0], bytes) else pa.string()
    indices = pa.array([index % len(values) for index in range(count)], pa.int32())
    images = pa.DictionaryArray.from_arrays(indices, pa.array(values, kind))
    table = pa.table({"image": images, "label": ["a", "b"] * (count // 2)})
    pq.write_table(table, file, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert file.stat().st_size < 20_000
    return file


def test_an_image_that_a_table_repeats_takes_memory_and_disk_once(folder: Path) -> None:
    picture = (folder / "pictures" / "03.png").read_bytes() + bytes(4 << 20)
    contents = parquet_rows.Contents()
    file = repeated(folder / "t.parquet", [picture], 2000)
    before = pa.total_allocated_bytes()
    spots = []
    for row in parquet_rows.parquet_rows(
        file, parquet_rows.Columns(("image",), ("label",)), contents
    ):
        assert pa.total_allocated_bytes() - before < 20 * len(picture)
        spots.append(row.spot)
    assert len(spots) == 2000
    assert len(set(spots)) == 1
    assert contents.read(spots[0]) == picture  # type: ignore[arg-type]


def test_images_that_take_more_than_a_table_declares_are_refused(folder: Path) -> None:
    contents = parquet_rows.Contents()
    contents.reserve(100, folder)
    contents.add(bytes(60))
    contents.add(bytes(60))
    with pytest.raises(DataError, match="take more than the file declares"):
        contents.add(bytes(61))


def test_rows_and_texts_of_a_parquet_file_are_bounded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = repeated(folder / "t.parquet", ["x" * 5_000_000], 10_000)
    with pytest.raises(DataError, match="row 1: image: a text of 5,000,000 characters, at most"):
        loaded(file)
    monkeypatch.setattr(parquet_rows, "free_memory", lambda: 1_000_000)
    with pytest.raises(DataError, match=r"10,000 rows take about 0\.0 GB of memory, .* are free"):
        loaded(file)


def test_long_line_of_json_is_refused(folder: Path) -> None:
    line = json.dumps({"path": "pictures/00.png", "label": "a", "more": "[" * (4 << 20)})
    (folder / "list.jsonl").write_text(line)
    with pytest.raises(DataError, match="line 1: 4 MiB, at most 4 are read"):
        loaded(folder / "list.jsonl")


def test_large_table_in_text_is_refused(folder: Path) -> None:
    with (folder / "list.csv").open("wb") as stream:
        stream.truncate(500 << 20)
    with pytest.raises(DataError, match="has more than 268,435,456 bytes"):
        loaded(folder / "list.csv")


def test_given_names_that_are_numbers_are_names_of_the_labels(folder: Path) -> None:
    data = load(folder, rows(["1", "2"] * 10), classes=["2", "1"])
    assert data.classes == ("2", "1")
    _, labels = data.train.batch(range(len(data.train)))
    assert labels.tolist() == [1 - int(Path(name).stem) % 2 for name in data.train.names]


def test_names_in_a_file_give_the_order_of_labels_in_words(folder: Path) -> None:
    (folder / "names.txt").write_text("dog\ncat\n")
    data = load(folder, rows(["cat", "dog"] * 10), classes=folder / "names.txt")
    assert data.classes == ("dog", "cat")
    with pytest.raises(DataError, match=r"label 'cow' is none of data\.classes"):
        load(folder, rows(["cat", "cow"] * 10), classes=folder / "names.txt")


def test_label_of_thousands_of_digits_is_told(folder: Path) -> None:
    with pytest.raises(DataError, match="has 5,000 characters; expected at most 256"):
        load(folder, rows(["1", "2" * 5000] * 10))


def test_two_classes_of_one_name_are_told(folder: Path) -> None:
    with pytest.raises(DataError, match="two classes are called 'cat'"):
        load(folder, rows(["0", "1"] * 10), classes=["cat", "cat"])


def test_semicolons_part_columns_where_the_heading_has_no_comma(folder: Path) -> None:
    data = load(folder, rows(["cat, small", "dog"] * 10).replace(".png,", ".png;").replace(
        "path,", "path;"
    ))  # fmt: skip
    assert data.classes == ("cat, small", "dog")
