"""Which class a value or colour of a mask is, and values that nobody named."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.images.masks.tables import read_table
from tests.training.data.sources.masks.conftest import all_of, binary_pairs, load
from training.errors import DataError


def test_value_beyond_the_classes_names_file_and_value(root: Path) -> None:
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: expected classes 0 to 2 or 255.*got \[7\]"):
        load(root)


def test_colour_mask_without_a_table_is_refused(root: Path) -> None:
    Image.fromarray(np.full((40, 40, 3), (9, 0, 0), np.uint8)).save(root / "masks" / "05.png")
    with pytest.raises(DataError, match=r"05\.png: is in colours, and nothing names them"):
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


def test_masks_in_jpeg_ask_for_a_threshold_and_are_told_apart_by_it(tmp_path: Path) -> None:
    lossless = all_of(load(binary_pairs(tmp_path / "d")))
    root = binary_pairs(tmp_path / "d2", ".jpg")
    with pytest.raises(DataError, match="or the key classes, values or colours"):
        load(root)
    with pytest.raises(DataError) as raised:
        load(root, classes=["background", "person"])
    told = str(raised.value)
    assert "masks hold more than 5 values that nobody named (20 files, first labels/00_" in told
    assert "masks with soft edges need a threshold, such as 128" in told
    data = load(root, threshold=128)
    assert data.notes == ("values of masks from 128 on are 'foreground', lower ones 'background'",)
    for name, mask in all_of(data).items():
        assert (mask == lossless[name]).mean() > 0.99


def test_values_that_nobody_named_are_counted_with_the_first_file(root: Path) -> None:
    for name, value in (("05", 7), ("09", 7), ("11", 9)):
        mask = np.zeros((40, 40), np.uint8)
        mask[0, :] = value
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    with pytest.raises(DataError) as raised:
        load(root)
    told = str(raised.value)
    assert "masks hold 7, which nobody named (2 files, first masks/05.png); " in told
    assert "masks hold 9, which nobody named (1 file, first masks/11.png); 3 of 40 files" in told
    assert "got [7]; unnamed: ignore goes on without these pixels" in told
    data = load(root, unnamed="ignore")
    assert data.remarks.lines()[0] == (
        "masks hold 7, which nobody named (2 files, first masks/05.png)"
    )
    assert all_of(data)["images/05.png"][0, 0] == 255


def test_colours_give_the_same_classes_as_values(root: Path, shapes_root: Path) -> None:
    colours = {0: (10, 20, 30), 1: (200, 0, 0), 2: (0, 0, 200), 255: (1, 1, 1)}
    for file in (root / "masks").iterdir():
        mask = np.asarray(Image.open(file))
        painted = np.zeros((*mask.shape, 3), np.uint8)
        for value, colour in colours.items():
            painted[mask == value] = colour
        Image.fromarray(painted).save(file)
    (root / "classes.txt").unlink()
    (root / "my.csv").write_text(
        "name,r,g,b,ignored\nbackground,10,20,30,\nred,200,0,0,\nblue,0,0,200,\nedge,1,1,1,yes\n"
    )
    data, values = load(root, colours="my.csv"), load(shapes_root)
    assert data.classes == values.classes
    for name, mask in all_of(values).items():
        assert np.array_equal(all_of(data)[name], mask)


def test_ids_of_16_bits_become_classes(root: Path, shapes_root: Path) -> None:
    for file in (root / "masks").iterdir():
        mask = np.asarray(Image.open(file)).astype(np.uint16)
        Image.fromarray(np.where(mask == 255, 65535, mask * 1000).astype(np.uint16)).save(file)
    values = {0: "background", 1000: "red", "2000..2999": "blue", 65535: None}
    data = load(root, values=values)
    assert data.classes == ("background", "red", "blue")
    expected = all_of(load(shapes_root))
    for name, mask in all_of(data).items():
        assert np.array_equal(mask, expected[name])


def test_more_classes_than_a_class_map_holds_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match="expected 2 to 255 classes, got 300"):
        load(root, values={index: str(index) for index in range(300)})


CAMVID = (Path(__file__).parents[5] / "../shared/data/camvid.tar.xz").resolve()


@pytest.mark.skipif(not CAMVID.is_file(), reason=f"{CAMVID} is not there")
def test_camvid_rendered_in_its_colours_reads_back_equal(tmp_path: Path) -> None:
    """Twelve pairs: values by classes.txt, then painted in the colours of our table."""
    with tarfile.open(CAMVID) as archive:
        wanted = 25
        for member in archive:
            kind = Path(member.name).parent
            images = len(list((tmp_path / "camvid/train/images").glob("*")))
            if (
                member.name == "camvid/classes.txt"
                or (kind == Path("camvid/train/images") and images < 12)
                or (kind == Path("camvid/train/masks"))
            ):
                archive.extract(member, tmp_path, filter="data")
                wanted -= 1
            if not wanted:
                break
    root = tmp_path / "camvid"
    as_values = load(root, ignore_index=11)
    expected = all_of(as_values)
    rows = read_table("camvid-11", root).rows
    colours = np.array([row.colour for row in rows if row.value is not None], np.uint8)
    for file in (root / "train/masks").iterdir():
        Image.fromarray(colours[np.asarray(Image.open(file))]).save(file)
    painted = load(root, colours="camvid-11")
    assert painted.classes == (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    for name, mask in all_of(painted).items():
        values = np.where(expected[name] == 11, 255, expected[name])
        assert np.array_equal(mask, values)
