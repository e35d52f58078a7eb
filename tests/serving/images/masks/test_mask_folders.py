"""Where masks lie beside images, and what they are called."""

from pathlib import Path

import pytest

from serving.base.errors import InvalidInput
from serving.images.masks.folders import MaskedListing, MaskNames, list_masked_images


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def pairs(root: Path, listing: MaskedListing) -> list[tuple[str, str]]:
    return [
        (pair.path.relative_to(root).as_posix(), pair.mask.relative_to(root).as_posix())
        for pair in listing.pairs
    ]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.jpg", "masks/{}.png"),
        ("imgs/{}.jpg", "labels/{}.png"),
        ("img/{}.jpg", "masks/{}_mask.gif"),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
        ("images/{}.png", "annotations/{}_L.png"),
        ("images/{}.jpg", "masks/{}_seg.tif"),
        ("images/{}.jpg", "gt/{}_gt.jpg"),
        ("Images/{}.jpg", "Masks/{}-mask.bmp"),
        ("leftImg8bit/aachen/{}_leftImg8bit.png", "gtFine/aachen/{}_gtFine_labelIds.png"),
        ("{}.png", "{}_matte.png"),
        ("{}_sat.jpg", "{}_mask.png"),
    ],
)
def test_usual_names_are_found(tmp_path: Path, image: str, mask: str) -> None:
    for name in ("a", "b.c"):
        tree(tmp_path, image.format(name), mask.format(name))
    expected = [(image.format(name), mask.format(name)) for name in ("a", "b.c")]
    assert pairs(tmp_path, list_masked_images(tmp_path, MaskNames())) == expected


def test_folder_of_labels_beside_a_split_is_found(tmp_path: Path) -> None:
    tree(tmp_path, "train/a.png", "train_labels/a_L.png", "val/b.png", "valannot/b.png")
    train = list_masked_images(tmp_path / "train", MaskNames())
    assert pairs(tmp_path, train) == [("train/a.png", "train_labels/a_L.png")]
    assert train.how == "train/NAME.*, train_labels/NAME_L.*"
    val = list_masked_images(tmp_path / "val", MaskNames())
    assert pairs(tmp_path, val) == [("val/b.png", "valannot/b.png")]


def test_values_are_preferred_to_colours(tmp_path: Path) -> None:
    tree(tmp_path, "images/a.png", "gtFine/a_gtFine_color.png", "gtFine/a_gtFine_labelIds.png")
    found = list_masked_images(tmp_path, MaskNames())
    assert found.pairs[0].mask.name == "a_gtFine_labelIds.png"
    said = MaskNames(mask_suffix="_gtFine_color")
    assert list_masked_images(tmp_path, said).pairs[0].mask.name == "a_gtFine_color.png"


def test_lossless_file_is_preferred(tmp_path: Path) -> None:
    tree(tmp_path, "images/a.jpg", "masks/a.jpg", "masks/a.png")
    assert list_masked_images(tmp_path, MaskNames()).pairs[0].mask.name == "a.png"


def test_names_that_are_said_are_taken(tmp_path: Path) -> None:
    tree(tmp_path, "photos/a_x.jpg", "outlines/a.y.png", "masks/a_x.png", "images/z.jpg")
    said = MaskNames("photos", "outlines", ".y", "_x")
    found = list_masked_images(tmp_path, said)
    assert pairs(tmp_path, found) == [("photos/a_x.jpg", "outlines/a.y.png")]
    whole = list_masked_images(tmp_path / "photos", MaskNames(".", "../outlines", ".y", "_x"))
    assert len(whole.pairs) == 1
    tree(tmp_path, "inner/a.png", "inner/masks/a.png")
    inner = list_masked_images(tmp_path / "inner", MaskNames("."))
    assert pairs(tmp_path, inner) == [("inner/a.png", "inner/masks/a.png")]
    with pytest.raises(InvalidInput, match="none: no such folder"):
        list_masked_images(tmp_path, MaskNames("photos", "none"))


def test_folders_that_may_both_be_meant_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "img/a.jpg", "labels/a.png", "gt/a.png", "annotations/a.xml")
    with pytest.raises(InvalidInput, match="gt/, labels/ may hold the masks; the key masks says"):
        list_masked_images(tmp_path, MaskNames())


def test_missing_masks_are_named_with_the_name_that_was_looked_for(tmp_path: Path) -> None:
    for name in "abc":
        tree(tmp_path, f"img/{name}.jpg", f"masks/{name}_mask.png")
    tree(tmp_path, "img/d.jpg")
    with pytest.raises(
        InvalidInput,
        match=r"no mask for d\.jpg \(1 in all\); expected NAME_mask\.png at .* img/NAME",
    ):
        list_masked_images(tmp_path, MaskNames())
