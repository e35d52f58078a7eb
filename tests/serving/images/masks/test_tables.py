"""Tables of names and colours: every way of writing one, and what is wrong with one."""

from pathlib import Path

import pytest

from serving.base.errors import InvalidInput
from serving.images.masks.tables import SHIPPED, Row, read_table

ROAD, VOID = Row("road", (128, 64, 128), None, False), Row("void", (0, 0, 0), None, True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "name,r,g,b,ignored\nroad,128,64, 128,\nvoid,0,0,0,true\n"),
        ("t.csv", "\ufeffClass;Colour;Ignore\nroad;128 64 128;no\nvoid;#000000;yes\n"),
        (
            "t.json",
            '[{"name": "road", "color": [128, 64, 128]},'
            ' {"name": "void", "hex": "#000000", "ignore": true}]',
        ),
        (
            "t.yaml",
            "- {name: road, colour: '128,64,128'}\n- {name: void, rgb: [0,0,0], ignored: 1}",
        ),
    ],
)
def test_table_is_read_as_people_write_it(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_table(name, tmp_path).rows == (ROAD, VOID)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", '{"road": [128, 64, 128], "void": "#000000"}'),
        ("t.yml", "road: '#804080'\nvoid: [0, 0, 0]\n"),
        ("label_colors.txt", "128 64 128\troad\n0 0 0\t\tvoid\n\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nvoid:0,0,0::\n"),
    ],
)
def test_names_and_colours_alone_are_a_table(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    table = read_table(name, tmp_path)
    assert table.rows == (ROAD, VOID._replace(ignored=False))
    assert not table.states_values


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "name,r,g,b\nroad,1,2,256\n", "line 2: colour of 'road': .* 0 to 255, got '256'"),
        ("t.csv", "name,r,g,b\nroad,1,2,-3\n", "line 2: .* got '-3'"),
        ("t.csv", "name,r,g,b\nroad,1,2\n", "line 2: .* got ''"),
        (
            "t.csv",
            "name,r,g,b\nroad,1,2,3\npath,1,2,3\n",
            r"colour \(1, 2, 3\) stands for 'road' and",
        ),
        ("t.csv", "title,r,g,b\nroad,1,2,3\n", "line 2: no name; expected a column or key name"),
        ("t.csv", "name,value\nroad,70000\n", "value of 'road': .* from 0 to 65535, got '70000'"),
        ("t.csv", "name\nroad\n", "line 2: 'road' has no colour"),
        ("t.csv", "name,r,g,b,ignored\nroad,1,2,3,maybe\n", "ignored: expected true or false"),
        ("t.csv", "name,r,g,b\n" + "a,1,1,1\n" * 4200, "more than 4096 rows"),
        ("t.csv", "name,r,g,b\n", "names no class"),
        ("t.json", "[1]", "entry 1: expected name and colour, got 1"),
        ("t.json", '{"road": [1, 2]}', "expected three numbers or #rrggbb, got \\[1, 2\\]"),
        ("t.json", '{"road": [1, 2, true]}', "got True"),
        ("t.json", '{"road": [1, 2, NaN]}', "got nan"),
        ("t.json", "{", "not valid JSON"),
        ("t.json", "[" * 100_000, "not valid JSON"),
        ("t.yaml", "a: &a [x]\nb: [*a, *a, *a]\n", "colour of 'a': expected three numbers"),
        ("t.yaml", "- [", "not valid YAML"),
        ("t.txt", "1 2 road\n", 'line 1: expected "R G B name"'),
        ("t.xls", "", "expected a table in .csv"),
    ],
)
def test_fault_is_told_in_one_line_with_file_and_place(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput, match=said) as raised:
        read_table(name, tmp_path)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_table_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'pascal' is neither a file nor one of ade20k, camvid"):
        read_table("pascal", tmp_path)
    with pytest.raises(InvalidInput, match=r"my\.csv: cannot be read: No such file"):
        read_table("my.csv", tmp_path)


def test_large_file_is_no_table(tmp_path: Path) -> None:
    with (tmp_path / "t.json").open("wb") as stream:
        stream.truncate(500 << 20)
    with pytest.raises(InvalidInput, match="has more than 1,048,576 bytes"):
        read_table("t.json", tmp_path)


CLASSES = {
    "ade20k": (150, 1),
    "camvid": (31, 1),
    "camvid-11": (11, 1),
    "cityscapes": (19, 16),
    "cityscapes-train-ids": (19, 1),
    "voc": (21, 1),
}


def test_every_shipped_table_is_tested() -> None:
    assert set(CLASSES) == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_table_has_the_classes_of_its_data_set(tmp_path: Path, name: str) -> None:
    rows = read_table(name, tmp_path).rows
    kept = {row.name for row in rows if not row.ignored}
    assert (len(kept), sum(row.ignored for row in rows)) == CLASSES[name]


def test_values_and_colours_are_those_that_the_data_sets_publish(tmp_path: Path) -> None:
    def row(table: str, name: str) -> Row:
        return next(row for row in read_table(table, tmp_path).rows if row.name == name)

    assert row("cityscapes", "bicycle") == Row("bicycle", (119, 11, 32), 33, False)
    assert row("cityscapes-train-ids", "bicycle").value == 18
    assert row("voc", "tvmonitor") == Row("tvmonitor", (0, 64, 128), 20, False)
    assert row("voc", "border") == Row("border", (224, 224, 192), 255, True)
    assert row("ade20k", "flag") == Row("flag", (92, 0, 255), 150, False)
    assert row("camvid", "Wall") == Row("Wall", (64, 192, 0), None, False)
    assert row("camvid-11", "bicyclist").value == 10
