"""From the pixels of a mask to classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.base.errors import InvalidInput
from serving.images.masks.rules import IGNORED, UNNAMED, scaled
from serving.images.masks.settings import MaskSettings, mask_rule


def mask_file(folder: Path, pixels: Any, name: str = "m.png") -> Path:
    Image.fromarray(np.array(pixels)).save(folder / name)
    return folder / name


def read(folder: Path, pixels: Any, **said: Any) -> tuple[list[list[int]], list[str]]:
    file = mask_file(folder, pixels)
    rule = mask_rule(MaskSettings(**said), [folder], [file])
    found, unnamed = rule.read(file)
    return found.tolist(), unnamed


def grey(*values: int, dtype: Any = np.uint8) -> Any:
    return np.array([values], dtype)


def test_colours_of_a_table_are_classes_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,r,g,b,ignored\nroad,9,0,0,\nsky,0,0,9,\nvoid,0,0,0,1\n")
    pixels = np.array([[[0, 0, 9], [9, 0, 0], [0, 0, 0], [1, 1, 2]]], np.uint8)
    assert read(tmp_path, pixels, colours="t.csv") == ([[1, 0, IGNORED, UNNAMED]], ["(1, 1, 2)"])


def test_several_colours_of_one_name_are_one_class(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,r,g,b\nroad,9,0,0\nsky,0,0,9\nroad,8,0,0\n")
    pixels = np.array([[[8, 0, 0], [9, 0, 0]]], np.uint8)
    assert read(tmp_path, pixels, colours="t.csv")[0] == [[0, 0]]


def test_classes_choose_from_a_table_and_the_others_are_ignored(tmp_path: Path) -> None:
    found, unnamed = read(
        tmp_path, grey(26, 24, 7, 0), colours="cityscapes", classes=["person", "car"]
    )
    assert (found, unnamed) == ([[1, 0, IGNORED, IGNORED]], [])
    with pytest.raises(InvalidInput, match="classes: 'cow' is no class of cityscapes"):
        read(tmp_path, grey(0), colours="cityscapes", classes=["cow", "car"])


def test_values_of_a_table_are_those_that_it_states(tmp_path: Path) -> None:
    assert read(tmp_path, grey(0, 1, 150), colours="ade20k")[0] == [[IGNORED, 0, 149]]
    assert read(tmp_path, grey(7, 33, 0), colours="cityscapes")[0] == [[0, 18, IGNORED]]
    assert read(tmp_path, grey(200), colours="voc") == ([[UNNAMED]], ["200"])


def test_grey_masks_are_colours_of_a_table_without_values(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("thing: [255, 255, 255]\nground: [0, 0, 0]\n")
    assert read(tmp_path, grey(0, 255), colours="t.yaml")[0] == [[1, 0]]


def palette_file(folder: Path, values: Any, colours: list[int]) -> Path:
    image = Image.fromarray(values)
    image.putpalette(colours + [0] * (768 - len(colours)))
    image.save(folder / "p.png")
    return folder / "p.png"


def test_palette_images_are_read_by_index_where_the_table_states_values(tmp_path: Path) -> None:
    # Index 1 has the colour of VOC's class 2.
    file = palette_file(tmp_path, grey(0, 1, 255), [0, 0, 0, 0, 128, 0])
    by_index = mask_rule(MaskSettings(colours="voc"), [tmp_path], [file])
    assert by_index.read(file)[0].tolist() == [[0, 1, IGNORED]]
    said = MaskSettings(colours="voc", palette="colours")
    assert mask_rule(said, [tmp_path], [file]).read(file)[0].tolist() == [[0, 2, 0]]


def test_palette_images_are_read_by_colour_where_a_table_has_colours_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,r,g,b\nroad,9,0,0\nsky,0,0,9\n")
    file = palette_file(tmp_path, grey(0, 1, 2), [0, 0, 9, 9, 0, 0, 7, 7, 7])
    rule = mask_rule(MaskSettings(colours="t.csv"), [tmp_path], [file])
    found, unnamed = rule.read(file)
    assert (found.tolist(), unnamed) == ([[1, 0, UNNAMED]], ["(7, 7, 7)"])


def test_values_of_16_bits_and_ranges_are_packed_into_classes(tmp_path: Path) -> None:
    values = {7: "road", "26000..26999": "car", 26: "car", 0: None}
    found, unnamed = read(tmp_path, grey(7, 26, 26005, 0, 27000, dtype=np.uint16), values=values)
    assert (found, unnamed) == ([[0, 1, 1, IGNORED, UNNAMED]], ["27000"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"7..x": "a", 1: "b"}, r"values: expected a number or FIRST\.\.LAST, got '7\.\.x'"),
        ({70000: "a", 1: "b"}, "values: expected numbers from 0 to 65535, got 70000"),
        ({-1: "a", 1: "b"}, "got -1"),
        ({"5..3": "a", 1: "b"}, "values: expected numbers"),
        ({"1..9": "a", 5: "b"}, "values: 5 is named twice"),
    ],
)
def test_values_that_cannot_be_are_named(tmp_path: Path, values: dict[Any, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read(tmp_path, grey(1), values=values)


def test_threshold_tells_two_classes_apart(tmp_path: Path) -> None:
    file = mask_file(tmp_path, grey(0, 127, 128, 255))
    rule = mask_rule(MaskSettings(threshold=128), [tmp_path], [file])
    assert rule.read(file)[0].tolist() == [[0, 0, 1, 1]]
    assert rule.note == "values of masks from 128 on are 'foreground', lower ones 'background'"
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(InvalidInput, match=r"classes\.txt names 3"):
        mask_rule(MaskSettings(threshold=128), [tmp_path], [file])


def test_tolerance_takes_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,r,g,b\nroad,200,0,0\nsky,0,0,200\n")
    pixels = np.array([[[190, 9, 3], [4, 0, 207], [180, 0, 0]]], np.uint8)
    found, unnamed = read(tmp_path, pixels, colours="t.csv", tolerance=10)
    assert (found, unnamed) == ([[0, 1, UNNAMED]], ["(180, 0, 0)"])
    values = {0: "a", 100: "b", 110: None}
    found, _ = read(tmp_path, grey(3, 11, 95, 104, 106), values=values, tolerance=10)
    assert found == [[0, UNNAMED, 1, 1, IGNORED]]


def test_ignored_classes_leave_the_list(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nvoid\nb\n")
    file = mask_file(tmp_path, grey(0, 1, 2, 255))
    rule = mask_rule(MaskSettings(ignore=["void"]), [tmp_path], [file])
    assert rule.classes == ("a", "b")
    assert rule.read(file)[0].tolist() == [[0, IGNORED, 1, IGNORED]]
    with pytest.raises(InvalidInput, match="ignore: 'x' is no class of"):
        mask_rule(MaskSettings(ignore=["x"]), [tmp_path], [file])


def test_black_and_white_masks_need_no_names(tmp_path: Path) -> None:
    file = mask_file(tmp_path, grey(0, 255))
    rule = mask_rule(MaskSettings(), [tmp_path], [file])
    assert rule.classes == ("background", "foreground")
    assert rule.read(file)[0].tolist() == [[0, 1]]
    other = mask_file(tmp_path, grey(0, 3), "n.png")
    with pytest.raises(InvalidInput, match="expected one class a line, or the key classes"):
        mask_rule(MaskSettings(), [tmp_path], [file, other])


def test_table_in_the_folder_counts_where_there_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nroad,9,0,0\nsky,0,0,9\n")
    pixels = np.array([[[0, 0, 9]]], np.uint8)
    assert read(tmp_path, pixels)[0] == [[1]]
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(InvalidInput, match="is in colours, and nothing names them"):
        read(tmp_path, pixels)


def test_large_colour_masks_are_read_in_bands(tmp_path: Path) -> None:
    pixels = np.zeros((1500, 1000, 3), np.uint8)
    pixels[::2] = 128, 0, 0
    found, unnamed = read(tmp_path, pixels, colours="voc")
    assert not unnamed
    assert np.array_equal(np.array(found)[:, 0], np.arange(1500) % 2 == 0)


def test_mask_is_scaled_where_its_shape_is_the_images() -> None:
    mask = np.arange(6, dtype=np.int16).reshape(2, 3)
    assert scaled(mask, (2, 3)) is mask
    large = scaled(mask, (200, 300))
    assert (large[::100, ::100] == mask).all()
    assert set(np.unique(large)) == set(range(6))
    assert scaled(np.zeros((100, 150), np.int16), (201, 300)).shape == (201, 300)
    with pytest.raises(InvalidInput, match="the image is 300x204, its mask 3x2; expected"):
        scaled(mask, (204, 300))
