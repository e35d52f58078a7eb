"""Labelled folders: the class of each file, and the meaning of each mask value."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.base.errors import InvalidInput
from serving.cli.labelled import (
    LabelledImage,
    MaskReading,
    class_folders,
    identity_folders,
    mask_pairs,
    mask_reading,
)
from serving.images.masks.folders import MaskedImage

CLASSES = ("cat", "dog", "emu")


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def mask_file(folder: Path, mask: np.ndarray, name: str = "mask.png") -> Path:
    path = folder / name
    Image.fromarray(mask).save(path)
    return path


def test_label_is_the_place_of_the_folder_among_the_models_classes(tmp_path: Path) -> None:
    emu = touched(tmp_path / "emu" / "b.png")
    first, second = touched(tmp_path / "cat" / "2.jpg"), touched(tmp_path / "cat" / "1.JPEG")
    images, left_out = class_folders(tmp_path, CLASSES)
    assert images == [LabelledImage(second, 0), LabelledImage(first, 0), LabelledImage(emu, 2)]
    assert not left_out


@pytest.mark.parametrize(
    "name", ["list.csv", "train.parquet", "annotations/instances_val.json", "ImageSets/x.txt"]
)
def test_a_layout_that_a_build_alone_reads_is_told_the_way(name: str, tmp_path: Path) -> None:
    touched(tmp_path / name)
    for read in (lambda: class_folders(tmp_path, CLASSES), lambda: mask_pairs(tmp_path)):
        with pytest.raises(InvalidInput, match="`convserve extract RECIPE OUT` writes the test"):
            read()
    with pytest.raises(InvalidInput, match="is not a folder; `convserve extract"):
        class_folders(touched(tmp_path / "one.parquet"), CLASSES)


def test_images_are_found_below_and_other_files_are_counted(tmp_path: Path) -> None:
    wanted = {
        touched(tmp_path / "dog" / name)
        for name in ("a.jpg", "a.jpeg", "a.jfif", "a.webp", "a.bmp", "A.PNG", "deep/er/b.png")
    }
    for name in ("dog/notes.txt", "dog/a.gif", "dog/b.GIF", "dog/png", "readme.md", "cover.png"):
        touched(tmp_path / name)
    images, left_out = class_folders(tmp_path, CLASSES)
    assert {image.path for image in images} == wanted
    assert left_out == {".txt": 1, ".gif": 2, "no ending": 1, "beside the class folders": 1}


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found"])
def test_folders_of_tools_are_no_classes_and_no_identities(tmp_path: Path, name: str) -> None:
    for place in (name, f"dog/{name}"):
        touched(tmp_path / place / "a.png")
    for image in ("a.png", "._a.png", ".DS_Store", "Thumbs.db"):
        touched(tmp_path / "dog" / image)
    dog = LabelledImage(tmp_path / "dog" / "a.png", 1)
    assert class_folders(tmp_path, CLASSES) == ([dog], {})
    assert identity_folders(tmp_path) == ([LabelledImage(dog.path, 0)], ["dog"], {})


def test_splits_are_no_identities(tmp_path: Path) -> None:
    for name in ("Train/anna/0.png", "Test/bert/0.png"):
        touched(tmp_path / name)
    with pytest.raises(InvalidInput, match="got the splits Test, Train; evaluate one of them"):
        identity_folders(tmp_path)


def test_folder_that_is_no_class_is_named_with_the_classes(tmp_path: Path) -> None:
    touched(tmp_path / "cow" / "a.png")
    with pytest.raises(InvalidInput, match=r"'cow' is not a class .* are cat, dog, emu"):
        class_folders(tmp_path, CLASSES)


def test_long_list_of_classes_is_cut_short(tmp_path: Path) -> None:
    touched(tmp_path / "cow" / "a.png")
    classes = [f"c{index}" for index in range(1000)]
    with pytest.raises(InvalidInput, match=r"c0, c1, .*c9, \.\.\. \(1000 in all\)$"):
        class_folders(tmp_path, classes)


def test_data_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="missing: no such folder"):
        class_folders(tmp_path / "missing", CLASSES)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InvalidInput, match="found no images"):
        class_folders(tmp_path, CLASSES)


def test_mask_has_the_name_of_its_image(tmp_path: Path) -> None:
    first, second = touched(tmp_path / "images/b.jpg"), touched(tmp_path / "images/a.png")
    masks = touched(tmp_path / "masks/b.png"), touched(tmp_path / "masks/a.png")
    expected = [MaskedImage(second, masks[1]), MaskedImage(first, masks[0])]
    assert mask_pairs(tmp_path).pairs == expected


def test_masks_lie_in_the_same_folders_as_their_images(tmp_path: Path) -> None:
    image, mask = touched(tmp_path / "images/a/0.jpg"), touched(tmp_path / "masks/a/0.png")
    upper = touched(tmp_path / "images/b/0.JPG"), touched(tmp_path / "masks/b/0.PNG")
    assert mask_pairs(tmp_path).pairs == [MaskedImage(image, mask), MaskedImage(*upper)]


def test_files_of_tools_need_no_mask(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "masks/a.png", "images/._a.jpg", "images/.cache/b.jpg"):
        touched(tmp_path / name)
    touched(tmp_path / "images" / "c.tif")
    found = mask_pairs(tmp_path)
    assert [pair.path.name for pair in found.pairs] == ["a.jpg"]
    assert found.left_out == {".tif": 1}


def test_image_without_a_mask_is_named(tmp_path: Path) -> None:
    touched(tmp_path / "images/a.jpg")
    touched(tmp_path / "masks/b.jpg")
    with pytest.raises(InvalidInput, match=r"masks: no mask for a\.jpg \(1 in all\)"):
        mask_pairs(tmp_path)


def test_masks_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected images/ and masks/"):
        mask_pairs(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(InvalidInput, match="found no images"):
        mask_pairs(tmp_path)


def mapped(root: Path, classes: list[str] | tuple[str, ...] = CLASSES) -> list[int]:
    """The class of each mask value from 0 to 299; -1 for what does not count."""
    reading = mask_reading(root, classes, [])
    assert reading.rule.note == ""
    return numbers(reading)


def numbers(reading: MaskReading) -> list[int]:
    return [int(number) for number in reading.numbers[reading.rule.values[:300]]]


def test_without_a_list_mask_values_are_the_models_classes(tmp_path: Path) -> None:
    assert mapped(tmp_path / "val") == [0, 1, 2] + [-1] * 297


def test_model_with_more_classes_than_8_bits_hold_maps_values_of_16(tmp_path: Path) -> None:
    assert mapped(tmp_path, [str(index) for index in range(300)]) == list(range(300))


def test_list_names_mask_values_by_line(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfemu\r\n  cat \r\n\r\n")
    assert mapped(tmp_path) == [2, 0] + [-1] * 298


def test_list_beside_the_folder_counts_and_the_one_inside_wins(tmp_path: Path) -> None:
    split = tmp_path / "val"
    split.mkdir()
    (tmp_path / "classes.txt").write_text("dog\n")
    assert mapped(split)[0] == 1
    (split / "classes.txt").write_text("emu\n")
    assert mapped(split)[0] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"cat\nvoid\n", r"classes\.txt: 'void' is not a class of the model"),
        (b"cat\n\ndog\n", r"classes\.txt: line 2: empty"),
        (b"cat\ndog\ncat \n", r"classes\.txt: line 3: 'cat' is line 1 too"),
        (b"cat\n\xff\xfe\n", r"classes\.txt: line 2: byte 0xff"),
    ],
)
def test_list_that_cannot_be_meant_is_named_with_its_line(
    tmp_path: Path, text: bytes, said: str
) -> None:
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(InvalidInput, match=said):
        mapped(tmp_path)


def test_line_after_the_models_classes_names_what_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\nemu\nunlabelled\n")
    assert mapped(tmp_path)[:5] == [0, 1, 2, -1, -1]


def test_white_is_the_second_of_two_classes_in_masks_of_black_and_white(tmp_path: Path) -> None:
    white = mask_file(tmp_path, np.array([[0, 255]], np.uint8), "white.png")
    reading = mask_reading(tmp_path, ("background", "cat"), [white])
    found, unnamed = reading.read(white)
    assert (found.tolist(), unnamed) == ([[0, 1]], [])
    assert reading.rule.note == "masks hold 0 and 255 alone: 255 is 'cat'"
    assert mask_reading(tmp_path, CLASSES, [white]).read(white)[0].tolist() == [[0, -1]]
    ones = mask_file(tmp_path, np.array([[0, 1]], np.uint8), "ones.png")
    both = mask_reading(tmp_path, ("background", "cat"), [white, ones])
    assert both.read(white)[0].tolist() == [[0, -1]]


def test_table_of_colours_in_the_folder_names_the_models_classes(tmp_path: Path) -> None:
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nemu,1,2,3\ncat,0,0,9\n")
    colours = np.array([[[0, 0, 9], [1, 2, 3], [7, 7, 8]]], np.uint8)
    mask = mask_file(tmp_path, colours)
    found, unnamed = mask_reading(tmp_path, CLASSES, [mask]).read(mask)
    assert (found.tolist(), unnamed) == ([[0, 2, -1]], ["(7, 7, 8)"])


@pytest.mark.parametrize("place", ["{}/cat/a.png", "{}/images/a.png"])
def test_splits_side_by_side_are_refused(tmp_path: Path, place: str) -> None:
    for split in ("Train", "test"):
        touched(tmp_path / place.format(split))
    for listing in (lambda: class_folders(tmp_path, CLASSES), lambda: mask_pairs(tmp_path)):
        with pytest.raises(InvalidInput, match="got the splits Train, test; evaluate one of them"):
            listing()


def test_one_split_in_images_is_evaluated_at_a_time(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for file in (f"images/{split}/a.png", f"masks/{split}/a.png", f"images/{split}/b.tif"):
            touched(tmp_path / file)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(InvalidInput, match=r"images holds the splits test, train; evaluate one"):
        mask_pairs(tmp_path)
    test = tmp_path / "images" / "test"
    found = mask_pairs(test)
    assert found.pairs == [MaskedImage(test / "a.png", tmp_path / "masks" / "test" / "a.png")]
    assert found.left_out == {".tif": 1}
    assert mapped(test)[:3] == [1, 0, -1]


def test_message_on_missing_images_counts_the_files_that_are_left_out(tmp_path: Path) -> None:
    touched(tmp_path / "cat" / "a.tif")
    for listing in (lambda: class_folders(tmp_path, CLASSES), lambda: identity_folders(tmp_path)):
        with pytest.raises(InvalidInput, match=r"found no images; files left out: 1 \.tif"):
            listing()
