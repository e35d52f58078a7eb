"""Tables of paths and labels: columns, splits, paths, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from tests.training.data.sources.listings.conftest import listed, load, loaded, rows, split_sizes
from training.errors import DataError


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
