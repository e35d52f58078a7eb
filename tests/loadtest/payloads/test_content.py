import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from loadtest.errors import LoadTestError
from loadtest.payloads.content import (
    TensorInput,
    image_folder,
    labelled_folder,
    npy_tensors,
    random_tensors,
)
from loadtest.payloads.synthetic_images import synthetic_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.jpg").write_bytes(f"{name} {i}".encode())
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_images_are_sent_as_they_are(folder: Path) -> None:
    found = {payload.images[0] for payload in image_folder(folder, 1, 0)}
    assert found == {f"{name} {i}".encode() for name in ("cat", "dog") for i in range(3)}


def test_the_folder_of_an_image_is_its_label(folder: Path) -> None:
    for payload in labelled_folder(folder, 2, 0):
        assert [image.split()[0].decode() for image in payload.images] == list(payload.expected)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="no images"):
        image_folder(tmp_path, 1, 0)
    with pytest.raises(LoadTestError, match="not a folder"):
        image_folder(tmp_path / "none", 1, 0)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(LoadTestError, match="one for each class"):
        labelled_folder(tmp_path, 1, 0)


def test_synthetic_images_have_the_sizes() -> None:
    sizes = set()
    for payload in synthetic_images([(64, 48), (20, 30)], 1, 0):
        pixels = cv2.imdecode(np.frombuffer(payload.images[0], np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        sizes.add((pixels.shape[1], pixels.shape[0]))
    assert sizes == {(64, 48), (20, 30)}


@pytest.mark.parametrize(
    ("datatype", "shape", "expected"),
    [
        ("FP32", (-1, 1 << 40), "takes 17,592,186,044,416 bytes, expected at most 67,108,864"),
        ("BYTES", (2_000_000,), "takes 120,000,000 bytes"),
        ("FP32", (-1, -7), "give its open sizes by --shape x=SIZE"),
    ],
)
def test_metadata_of_a_server_does_not_take_the_memory(
    datatype: str, shape: tuple[int, ...], expected: str
) -> None:
    with pytest.raises(LoadTestError, match=expected):
        random_tensors([TensorInput("x", datatype, shape)], {}, 4, 0)


def test_random_tensors_are_as_the_metadata_says() -> None:
    inputs = [TensorInput("x", "FP32", (-1, 3, -1)), TensorInput("ids", "INT64", (-1, 2))]
    payload = random_tensors(inputs, {"x": (3, 5)}, 4, 0)[0]
    assert payload.tensors["x"].shape == (4, 3, 5)
    assert payload.tensors["x"].dtype == np.float32
    assert payload.tensors["ids"].shape == (4, 2)
    assert payload.rows == 4
    with pytest.raises(LoadTestError, match="--shape x=SIZE"):
        random_tensors(inputs, {}, 1, 0)
    with pytest.raises(LoadTestError, match="no input 'y'"):
        random_tensors(inputs, {"y": (1,)}, 1, 0)


def test_npy_rows_become_requests(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    inputs = (TensorInput("x", "FP32", (-1, 2)),)
    payloads = npy_tensors({"": tmp_path / "x.npy"}, inputs, 2)
    assert [p.tensors["x"].tolist() for p in payloads] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    with pytest.raises(LoadTestError, match="give NAME="):
        npy_tensors({"z": tmp_path / "x.npy"}, inputs, 1)
    with pytest.raises(LoadTestError, match="5 rows"):
        npy_tensors({"": tmp_path / "x.npy"}, inputs, 6)


def test_what_tools_leave_in_a_folder_is_passed_over(folder: Path) -> None:
    for junk in (".ipynb_checkpoints/0-checkpoint.jpg", "__MACOSX/cat/._0.jpg", "cat/._0.jpg"):
        (folder / junk).parent.mkdir(parents=True, exist_ok=True)
        (folder / junk).write_bytes(b"junk")
    (folder / "cat" / "a folder.jpg").mkdir()
    (folder / "dog" / "new.JFIF").write_bytes(b"dog new")
    labelled = {p.images[0]: p.expected for p in labelled_folder(folder, 1, 0)}
    assert set(labelled.values()) == {("cat",), ("dog",)}
    assert b"junk" not in labelled
    assert b"dog new" in labelled
    assert {p.images[0] for p in image_folder(folder, 1, 0)} == set(labelled)


def test_splits_are_no_labels(folder: Path) -> None:
    for split in ("Train", "test"):
        shutil.copytree(folder / "cat", folder / "data" / split / "cat")
    with pytest.raises(LoadTestError, match="got the splits Train, test; give one of them"):
        labelled_folder(folder / "data", 1, 0)
    assert labelled_folder(folder / "data" / "test", 1, 0)[0].expected == ("cat",)
