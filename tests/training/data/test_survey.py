"""The look at the data: what it counts, and what it warns of."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from training.data.duplicates import dhash, near_pairs, thumbnail
from training.data.readers import Loaded, Pixels
from training.data.remarks import Remarks
from training.data.samples import ArraySamples, Dataset, FileSamples
from training.data.survey import survey
from training.errors import BrokenFiles, DataError

COUNTS = {"train": 60, "val": 10, "test": 20}


def pictures(count: int, seed: int) -> Pixels:
    """Smooth random colours, no two alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), np.uint8)
    return np.stack(
        [cv2.resize(image, (48, 48), interpolation=cv2.INTER_CUBIC) for image in coarse]
    )


def arrays() -> dict[str, tuple[Pixels, Any]]:
    return {
        name: (pictures(count, seed), np.arange(count, dtype=np.int64) % 3)
        for seed, (name, count) in enumerate(COUNTS.items())
    }


def dataset(parts: dict[str, tuple[Pixels, Any]], **changes: Any) -> Dataset:
    splits = {name: ArraySamples(*arrays) for name, arrays in parts.items()}
    return Dataset("made", "made here", ("a", "b", "c"), **splits, **changes)


def test_counts_classes_and_sizes(tmp_path: Path) -> None:
    found = survey(dataset(arrays()), tmp_path / "sheet.npz")
    assert found["images"] == COUNTS
    assert found["classes"]["a"] == {"train": 20, "val": 4, "test": 7}
    assert found["unit"] == "images"
    assert found["sizes"]["median"] == [48, 48]
    assert found["sizes"]["height"]["counts"] == [90]
    assert found["warnings"] == []
    assert json.loads(json.dumps(found)) == found
    with np.load(tmp_path / "sheet.npz") as sheet:
        assert sheet["images"].shape == (3, 8, 48, 48, 3)
        assert sheet["classes"].tolist() == ["a", "b", "c"]


def test_grey_images_are_looked_at_as_colours_are(tmp_path: Path) -> None:
    grey = {
        name: (np.ascontiguousarray(images[..., :1]), targets)
        for name, (images, targets) in arrays().items()
    }
    grey["val"][0][0] = grey["train"][0][0]
    found = survey(dataset(grey), tmp_path / "sheet.npz")
    assert found["duplicates"]["exact"]["count"]["train-val"] == 1
    with np.load(tmp_path / "sheet.npz") as sheet:
        assert sheet["images"].shape == (3, 8, 48, 48, 1)


def test_images_that_are_all_dark_are_told(tmp_path: Path) -> None:
    """12 bits of a thermal camera in files of 16 bits leave 16 levels."""
    dark = {name: (images[..., :1] >> 4, targets) for name, (images, targets) in arrays().items()}
    (warning,) = [
        text
        for text in survey(dataset(dark), tmp_path / "sheet.npz")["warnings"]
        if text.startswith("no pixel is above level 15 of 255")
    ]
    assert "12 or 14 bits" in warning


def test_masks_are_counted_by_pixel_and_what_is_ignored_is_not(tmp_path: Path) -> None:
    parts = {
        name: (images, np.zeros(images.shape[:3], np.uint8))
        for name, (images, _) in arrays().items()
    }
    for _, masks in parts.values():
        masks[:, :24] = 1
        masks[:, 24:36] = 255
    found = survey(dataset(parts, ignore_index=255), tmp_path / "sheet.npz")
    assert found["unit"] == "pixels"
    assert found["classes"]["b"]["train"] == pytest.approx(2 / 3, abs=1e-6)
    assert "train has nothing of c" in found["warnings"]


def masks_of(*values: int) -> dict[str, tuple[Pixels, Any]]:
    """Masks that hold each value in a stripe of its own."""
    row = np.repeat(np.array(values, np.uint8), -(-48 // len(values)))[:48]
    return {
        name: (images, np.broadcast_to(row, images.shape[:3]).copy())
        for name, (images, _) in arrays().items()
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((255,), "train has no pixel of a, b, c, .*; pixels of 255 are ignored"),
        ((0,), "train has no pixel of b, c"),
        ((1, 255), "train has no pixel of a, c"),
    ],
)
def test_masks_with_nothing_to_tell_apart_are_refused(
    tmp_path: Path, values: tuple[int, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        survey(dataset(masks_of(*values), ignore_index=255), tmp_path / "sheet.npz")


def test_class_of_few_pixels_is_not_nothing(tmp_path: Path) -> None:
    parts = masks_of(0)
    parts["train"][1][0, 0, 0] = 1
    # One of so many that its share has seven zeros.
    large = ArraySamples(parts["train"][0], np.repeat(parts["train"][1], 10, axis=1))
    data = dataset(parts)
    found = survey(replace(data, classes=("a", "b"), train=large), tmp_path / "sheet.npz")
    assert 0 < found["classes"]["b"]["train"] < 1e-5


def test_files_that_are_left_out_are_told(tmp_path: Path) -> None:
    found = survey(dataset(arrays(), left_out={".tif": 3, ".gif": 12}), tmp_path / "sheet.npz")
    assert found["left_out"] == {".tif": 3, ".gif": 12}
    [warning] = found["warnings"]
    assert warning.startswith("files left out: 12 .gif, 3 .tif; images end in .jpg, .jpeg")


def test_notes_of_the_source_are_told(tmp_path: Path) -> None:
    found = survey(dataset(arrays(), notes=("255 is 'b'",)), tmp_path / "sheet.npz")
    assert found["warnings"] == ["255 is 'b'"]


def test_copies_across_splits_are_named(tmp_path: Path) -> None:
    parts = arrays()
    parts["test"][0][3] = parts["train"][0][7]
    parts["test"][0][4] = np.clip(parts["train"][0][8].astype(int) + 3, 0, 255)
    parts["train"][0][9] = parts["train"][0][6]
    duplicates = survey(dataset(parts), tmp_path / "sheet.npz")["duplicates"]
    assert duplicates["exact"]["count"] == {"train-val": 0, "train-test": 1, "val-test": 0}
    assert duplicates["exact"]["first"] == [["train/7", "test/3"]]
    assert duplicates["near"]["count"]["train-test"] == 1
    assert duplicates["near"]["first"] == [["train/8", "test/4"]]
    assert duplicates["within_splits"] == 1


def test_one_image_under_two_classes_is_told(tmp_path: Path) -> None:
    parts = arrays()
    parts["train"][0][4] = parts["train"][0][0]
    warnings = survey(dataset(parts), tmp_path / "sheet.npz")["warnings"]
    assert warnings == ["images that stand under several classes: 1, such as train/0 = train/4"]


def test_unequal_and_missing_classes_are_told(tmp_path: Path) -> None:
    parts = arrays()
    labels = parts["train"][1]
    labels[:] = 0
    labels[:3] = 1, 1, 2
    parts["val"][1][:] = 1
    warnings = survey(dataset(parts), tmp_path / "sheet.npz")["warnings"]
    assert "val has nothing of a, c" in warnings
    assert "classes with a single image in train: 1, such as c" in warnings
    assert "classes are unequal: train has 57 times as many images of a as of c" in warnings


def test_class_without_an_image_in_train_is_refused(tmp_path: Path) -> None:
    parts = arrays()
    parts["train"][1][:] = 0
    with pytest.raises(DataError, match="train has no image of b, c; every class needs some"):
        survey(dataset(parts), tmp_path / "sheet.npz")


def test_small_images_are_told(tmp_path: Path) -> None:
    parts = arrays()
    data = dataset(parts)
    data.train.sizes[:5] = 20  # type: ignore[attr-defined]
    found = survey(data, tmp_path / "sheet.npz")
    assert found["warnings"] == [
        "images that are smaller than the network's 48x48 and are enlarged: 5 of 90"
    ]
    assert sum(found["sizes"]["width"]["counts"]) == 90


def test_every_broken_file_of_a_set_too_big_for_memory_is_named(tmp_path: Path) -> None:
    images, labels = pictures(30, 0), np.arange(30) % 3

    def load(index: int) -> Loaded:
        if index % 2:
            raise DataError("cut off")
        return Loaded(images[index], labels[index], (48, 48))

    def samples(items: Sequence[int]) -> FileSamples:
        return FileSamples([f"{index}.jpg" for index in items], items, load)

    parts = {"train": samples(range(24)), "val": samples([24, 26]), "test": samples([28, 29])}
    data = Dataset("made", "made here", ("a", "b", "c"), **parts)
    with pytest.raises(
        BrokenFiles, match=r"13 of 28 files cannot be used: 1\.jpg: cut off; .*3 more"
    ) as e:
        survey(data, tmp_path / "sheet.npz")
    assert len(e.value.files) == 13


def test_hash_survives_recompression_and_tells_images_apart() -> None:
    images = pictures(40, 3)
    recompressed = np.stack([
        cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 1)
        for image in images
    ])  # fmt: skip
    thumbnails = np.stack([thumbnail(image) for image in images])
    others = np.stack([thumbnail(image) for image in recompressed])
    assert list(near_pairs(thumbnails, others)) == [(index, index) for index in range(40)]


def test_hash_has_a_bit_for_each_rise_to_the_right() -> None:
    rising = np.broadcast_to(np.arange(9, dtype=np.uint8), (8, 9))
    hashes = dhash(np.stack([rising, rising[:, ::-1]]))
    assert np.bitwise_count(hashes).tolist() == [64, 0]


def test_oddities_of_files_are_told_with_their_number_and_the_first(tmp_path: Path) -> None:
    remarks = Remarks()
    names = [f"train/{index}" for index in range(60)]

    def load(index: int) -> Loaded:
        if index % 20 == 7:
            remarks.add("a sheep in it", names[index])
        return Loaded(arrays()["train"][0][index], np.asarray(index % 3), (48, 48))

    parts = arrays()
    data = dataset(parts, remarks=remarks)
    odd = replace(data, train=FileSamples(names, range(60), load))
    assert survey(odd, tmp_path / "s.npz")["warnings"] == [
        "a sheep in it (3 files, first train/27)"
    ]

    def refuse(index: int) -> Loaded:
        remarks.add("a sheep in it", names[index])
        raise DataError("no")

    with pytest.raises(
        BrokenFiles, match=r"made: a sheep in it \(60 files, .*; 60 of 90 files can"
    ):
        survey(replace(data, train=FileSamples(names, range(60), refuse)), tmp_path / "s.npz")
