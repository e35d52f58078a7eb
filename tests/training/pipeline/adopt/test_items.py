"""The data of --data, item by item."""

from pathlib import Path

import numpy as np
import pytest

from serving.images.tensor import ToTensor
from tests.support.foreign import LABELS, NETWORKS, write_foreign, write_items, write_pictures
from training.errors import DataError
from training.pipeline.adopt.description import describe_images
from training.pipeline.adopt.items import (
    Data,
    calls,
    read_images,
    read_labelled,
    read_tensors,
)
from training.pipeline.adopt.served import ServedModel, read_served


def served(tmp_path: Path, name: str) -> ServedModel:
    return read_served(write_foreign(tmp_path / "repository", name), None)


def test_files_of_one_item_and_of_several_are_the_same_items(tmp_path: Path) -> None:
    model = served(tmp_path, "two_inputs")
    rng = np.random.default_rng(0)
    rows = {
        "left": rng.normal(size=(5, 8)).astype(np.float32),
        "right": rng.normal(size=(5, 3, 8, 8)),  # float64, which is rounded
    }
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "many.npz", **rows, other=np.zeros(3))
    np.savez(tmp_path / "data" / "one.npz", **{name: array[0] for name, array in rows.items()})
    data = read_tensors(tmp_path / "data", model, 100, 2)
    assert (len(data.calibration), len(data.measured)) == (2, 4)
    assert data.measured.item(0)["right"].dtype == np.float32
    batches = list(calls(data.measured, range(4), model, 3))
    assert [len(batch["left"]) for batch in batches] == [3, 1]


def test_items_of_other_shapes_share_no_batch_and_calls_stay_alone(tmp_path: Path) -> None:
    model = served(tmp_path, "no_batch")
    data = read_tensors(write_items(tmp_path / "d", NETWORKS["no_batch"], 6), model, 100, 3)
    shapes = {call["signal"].shape for call in calls(data.measured, range(3), model, 8)}
    assert shapes <= {(3, 12), (4, 12), (5, 12)}


def test_npy_files_do_for_one_input(tmp_path: Path) -> None:
    model = served(tmp_path, "one_image")
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "a.npy", np.zeros((1, 3, 16, 16), np.float32))
    np.save(tmp_path / "d" / "b.npy", np.zeros((2, 1, 3, 16, 16), np.float32))
    data = read_tensors(tmp_path / "d", model, 100, 1)
    assert len(data.calibration) + len(data.measured) == 3
    assert data.measured.item(0)["pixels"].shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "no array 'right'"),
        ({"right": np.zeros((3, 8, 8), np.float32)}, "no array 'left'"),
        ({"right": np.zeros((3, 8, 8)), "left": np.zeros(9)}, r"left: expected \[8\], or several"),
        ({"right": np.zeros((2, 3, 8, 8)), "left": np.zeros(8)}, "as many items for each input"),
        ({"right": np.zeros((3, 8, 8)), "left": np.zeros(8, "U1")}, "left: expected FP32, got <U1"),
        (
            {"right": np.zeros((3, 8, 8), object), "left": np.zeros(8)},
            "right: expected FP32, got object",
        ),
        ({"right": np.zeros((0, 3, 8, 8)), "left": np.zeros((0, 8))}, "as many items"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    arrays: dict[str, np.ndarray], reason: str, tmp_path: Path
) -> None:
    model = served(tmp_path, "two_inputs")
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "a.npz", **arrays, allow_pickle=True)
    with pytest.raises(DataError, match=reason):
        read_tensors(tmp_path / "d", model, 100, 1)


def test_a_folder_without_items_is_refused(tmp_path: Path) -> None:
    model = served(tmp_path, "opset11")
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match=r"no \.npz or \.npy files"):
        read_tensors(tmp_path / "d", model, 100, 1)
    (tmp_path / "d" / "a.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"a\.npz: cannot be read"):
        read_tensors(tmp_path / "d", model, 100, 1)
    np.savez(tmp_path / "d" / "a.npz", pixels=np.zeros((3, 16, 16), np.float32))
    with pytest.raises(DataError, match="1 items: expected two at least"):
        read_tensors(tmp_path / "d", model, 100, 1)


def test_images_become_what_the_network_takes(tmp_path: Path) -> None:
    model = served(tmp_path, "one_image")
    found = describe_images("imagenet", model, None)
    assert found.image is not None
    assert found.transform is not None
    pictures = write_pictures(tmp_path / "pictures", 4) / "classification"
    to_tensor = ToTensor(found.image, model.inputs[0])
    data = read_images(pictures, found.transform, to_tensor, model, 8, 100)
    assert (len(data.calibration), len(data.measured)) == (4, 4)
    assert data.measured.item(0)["pixels"].shape == (1, 3, 16, 16)
    assert data.labelled is None
    (pictures / "red" / "broken.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"red/broken\.png"):
        read_images(pictures, found.transform, to_tensor, model, 100, 100)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_labelled_folders_are_known_by_their_layout(task: str, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 8)
    model = served(tmp_path, "masks")
    found = describe_images("imagenet", model, task)  # type: ignore[arg-type]
    assert found.image is not None
    assert found.transform is not None
    to_tensor = ToTensor(found.image, model.inputs[0])

    def labelled(folder: Path) -> Data | None:
        return read_labelled(folder, task, found.transform, to_tensor, model, 5, 3)  # type: ignore[arg-type]

    assert labelled(pictures / task / ("red" if task == "classification" else "masks")) is None
    data = labelled(pictures / task)
    assert data is not None
    assert (len(data.calibration), len(data.measured)) == (3, 4 if task == "segmentation" else 5)
    assert data.labelled is not None
    assert len(data.labelled.test) == len(data.measured)


def test_masks_are_known_by_the_usual_names_of_folders(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path, 8) / "segmentation"
    for name, other in (("images", "img"), ("masks", "Annotations")):
        (pictures / name).rename(pictures / other)
    model = served(tmp_path, "masks")
    found = describe_images("imagenet", model, "segmentation")
    assert found.image is not None
    assert found.transform is not None
    to_tensor = ToTensor(found.image, model.inputs[0])
    data = read_labelled(pictures, "segmentation", found.transform, to_tensor, model, 5, 3)
    assert data is not None
    assert data.labelled is not None
    assert data.labelled.classes == LABELS


def test_a_file_is_not_read_before_its_size_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = served(tmp_path, "opset11")
    (tmp_path / "d").mkdir()
    with (tmp_path / "d" / "a.npy").open("wb") as stream:
        claimed = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 3, 16, 16)}
        np.lib.format.write_array_header_1_0(stream, claimed)
    with pytest.raises(DataError, match=r"a\.npy: its arrays take 3072\.0 GB, at most 1\.1 GB"):
        read_tensors(tmp_path / "d", model, 100, 1)
    # Of a set of many files those that are chosen alone are read.
    (tmp_path / "d" / "a.npy").unlink()
    np.save(tmp_path / "d" / "b.npy", np.zeros((9, 3, 16, 16), np.float32))
    monkeypatch.setattr(np.lib.format, "read_array", None)
    data = read_tensors(tmp_path / "d", model, 100, 1)
    assert len(data.measured) == 8
