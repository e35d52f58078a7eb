"""Labelled folders: which file has which class, and which mask value means what."""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.base.errors import InvalidInput
from serving.cli.labelled import (
    LabelledImage,
    MaskedImage,
    class_folders,
    class_mapping,
    mask_pairs,
    read_mask,
)

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
    assert class_folders(tmp_path, CLASSES) == [
        LabelledImage(second, 0),
        LabelledImage(first, 0),
        LabelledImage(emu, 2),
    ]


def test_images_are_found_below_and_other_files_are_not(tmp_path: Path) -> None:
    wanted = {
        touched(tmp_path / "dog" / name)
        for name in ("a.jpg", "a.jpeg", "a.png", "a.webp", "a.bmp", "A.PNG", "deep/er/b.png")
    }
    for name in ("dog/notes.txt", "dog/a.gif", "dog/png", "readme.md", "cover.png"):
        touched(tmp_path / name)
    assert {image.path for image in class_folders(tmp_path, CLASSES)} == wanted


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
    with pytest.raises(InvalidInput, match="missing is not a folder"):
        class_folders(tmp_path / "missing", CLASSES)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InvalidInput, match="found no images"):
        class_folders(tmp_path, CLASSES)


def test_mask_has_the_name_of_its_image(tmp_path: Path) -> None:
    first, second = touched(tmp_path / "images/b.jpg"), touched(tmp_path / "images/a.png")
    masks = touched(tmp_path / "masks/b.png"), touched(tmp_path / "masks/a.png")
    assert mask_pairs(tmp_path) == [MaskedImage(second, masks[1]), MaskedImage(first, masks[0])]


def test_image_without_a_mask_is_named(tmp_path: Path) -> None:
    touched(tmp_path / "images/a.jpg")
    touched(tmp_path / "masks/a.jpg")
    with pytest.raises(InvalidInput, match=r"images/a\.jpg: its mask .*masks/a\.png is missing"):
        mask_pairs(tmp_path)


def test_masks_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected the folders images and masks"):
        mask_pairs(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(InvalidInput, match="found no images"):
        mask_pairs(tmp_path)


def test_without_a_list_mask_values_are_the_models_classes(tmp_path: Path) -> None:
    mapping = class_mapping(tmp_path / "val", CLASSES)
    assert mapping.shape == (256,)
    assert mapping[:3].tolist() == [0, 1, 2]
    assert (mapping[3:] == -1).all()


def test_model_with_more_classes_than_mask_values_maps_what_a_mask_can_hold(
    tmp_path: Path,
) -> None:
    mapping = class_mapping(tmp_path, [str(index) for index in range(300)])
    assert mapping.tolist() == list(range(256))


def test_list_names_mask_values_by_line_and_leaves_gaps(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("emu\n\n  cat \r\n")
    mapping = class_mapping(tmp_path, CLASSES)
    assert mapping[:3].tolist() == [2, -1, 0]
    assert (mapping[3:] == -1).all()


def test_list_beside_the_folder_counts_and_the_one_inside_wins(tmp_path: Path) -> None:
    split = tmp_path / "val"
    split.mkdir()
    (tmp_path / "classes.txt").write_text("dog\n")
    assert class_mapping(split, CLASSES)[0] == 1
    (split / "classes.txt").write_text("emu\n")
    assert class_mapping(split, CLASSES)[0] == 2


def test_list_with_a_class_the_model_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\nvoid\n")
    with pytest.raises(InvalidInput, match=r"classes\.txt: 'void' is not a class of the model"):
        class_mapping(tmp_path, CLASSES)


def test_line_after_the_models_classes_names_what_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\nemu\nunlabelled\n")
    assert class_mapping(tmp_path, CLASSES)[:5].tolist() == [0, 1, 2, -1, -1]


def test_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"cat\n\xff\xfe\n")
    with pytest.raises(InvalidInput, match=r"classes\.txt: cannot be read"):
        class_mapping(tmp_path, CLASSES)


def test_grey_and_palette_masks_give_their_indices(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 255], [7, 8, 9]], np.uint8)
    assert np.array_equal(read_mask(mask_file(tmp_path, indices)), indices)
    palette = Image.fromarray(indices)
    palette.putpalette([5] * 768)
    palette.save(tmp_path / "palette.png")
    found = read_mask(tmp_path / "palette.png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, indices)


@pytest.mark.parametrize(
    ("mask", "mode"),
    [(np.zeros((2, 2, 3), np.uint8), "RGB"), (np.zeros((2, 2), np.uint16), "I;16")],
)
def test_mask_of_another_kind_is_named(tmp_path: Path, mask: np.ndarray, mode: str) -> None:
    path = mask_file(tmp_path, mask)
    with pytest.raises(InvalidInput, match=rf"mask\.png: expected an 8-bit mask, got mode {mode}"):
        read_mask(path)


def test_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(InvalidInput, match=r"mask\.png: cannot be read as a mask"):
        read_mask(path)
    path.write_bytes(b"no image")
    with pytest.raises(InvalidInput, match=r"mask\.png: cannot be read as a mask"):
        read_mask(path)


def test_mask_with_a_header_cut_short_is_named(tmp_path: Path) -> None:
    path = mask_file(tmp_path, np.zeros((6, 6), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"\x0dIHDR", b"\x00IHDR"))
    with pytest.raises(InvalidInput, match=r"mask\.png: cannot be read as a mask"):
        read_mask(path)


def test_damaged_mask_is_read_or_refused_as_invalid_input(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    original = mask_file(tmp_path, rng.integers(0, 9, (20, 20), np.uint8)).read_bytes()
    chance, refused = random.Random(0), 0
    path = tmp_path / "damaged.png"
    for _ in range(300):
        damaged = bytearray(original)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(8, len(damaged))] = chance.randrange(256)
        # The size stays: it is 20x20 or the file is damaged, never a request for gigabytes.
        damaged[16:24] = original[16:24]
        path.write_bytes(damaged[: chance.randrange(40, len(damaged) + 1)])
        try:
            assert read_mask(path).dtype == np.uint8
        except InvalidInput as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 100
