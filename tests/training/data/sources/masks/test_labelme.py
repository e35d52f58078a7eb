"""labelme's JSON: shapes to class maps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.masks.labelme import labelme_folder
from training.errors import DataError
from training.recipes.masks import LabelmeData

SIZE = 20


def shape(label: str, points: Any, kind: str = "polygon") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind}


def write(root: Path, shapes: list[Any], count: int = 10, **more: Any) -> Path:
    """Images of which the first has the shapes, the others a rectangle of "cat"."""
    root.mkdir(exist_ok=True)
    for index in range(count):
        Image.fromarray(np.full((SIZE, SIZE, 3), 9 * index, np.uint8)).save(root / f"{index}.jpg")
        held = shapes if index == 0 else [shape("cat", [[2, 3], [9, 8]], "rectangle")]
        told = {"shapes": held, "imagePath": f"{index}.jpg", "imageData": None, **more}
        (root / f"{index}.json").write_text(json.dumps(told))
    return root


def load(root: Path, **keys: Any) -> Dataset:
    data = LabelmeData.model_validate({"source": "labelme", "root": root, **keys})
    return labelme_folder(data, EvalTransform(resize=(SIZE, SIZE)))


def mask_of(data: Dataset, name: str) -> np.ndarray:
    for split in (data.train, data.val, data.test):
        if name in split.names:
            return np.array(split.batch([list(split.names).index(name)])[1][0])
    raise AssertionError(name)


def test_polygons_rectangles_and_circles_are_drawn_in_their_order(tmp_path: Path) -> None:
    told = [
        shape("dog", [[1, 1], [12, 1], [12, 12], [1, 12]]),
        shape("cat", [[8, 8], [4, 4]], "rectangle"),
        shape("bird", [[15, 15], [15, 18]], "circle"),
        shape("__ignore__", [[0, 19], [3, 16]], "rectangle"),
        shape("_background_", [[1, 1], [2, 2]], "rectangle"),
    ]
    data = load(write(tmp_path / "d", told))
    assert data.classes == ("background", "bird", "cat", "dog")
    mask = mask_of(data, "0.jpg")
    assert (mask[10, 10], mask[6, 6], mask[15, 17], mask[17, 1], mask[1, 1]) == (3, 2, 1, 255, 0)
    assert mask[0].tolist() == [0] * SIZE
    assert (mask == 1).sum() == pytest.approx(np.pi * 9, abs=12)


def test_list_of_labels_orders_the_classes(tmp_path: Path) -> None:
    told = [shape("dog", [[1, 1], [12, 1], [12, 12]])]
    write(tmp_path / "d", told)
    (tmp_path / "d/labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    assert load(tmp_path / "d").classes == ("background", "dog", "cat")
    data = load(tmp_path / "d", classes=["cat"])
    assert data.classes == ("background", "cat")
    assert data.remarks.lines() == [
        "shapes labelled 'dog' count as background (1 file, first 0.jpg)"
    ]
    assert mask_of(load(tmp_path / "d", ignore=["dog"]), "0.jpg")[2, 5] == 255


def test_points_and_lines_are_passed_over_and_told(tmp_path: Path) -> None:
    data = load(write(tmp_path / "d", [shape("cat", [[1, 1], [5, 5]], "line")]))
    assert data.remarks.lines() == [
        "shapes of type line have no area and are passed over (1 file, first 0.jpg)"
    ]


def test_image_may_lie_elsewhere_in_the_root(tmp_path: Path) -> None:
    write(tmp_path / "json", [])
    (tmp_path / "pictures").mkdir()
    for file in (tmp_path / "json").glob("*.jpg"):
        file.rename(tmp_path / "pictures" / file.name)
        document = (tmp_path / "json" / file.name).with_suffix(".json")
        told = json.loads(document.read_text()) | {"imagePath": f"..\\pictures\\{file.name}"}
        document.write_text(json.dumps(told))
    assert load(tmp_path).train.names[0].startswith("pictures/")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            [shape("cat", [[1, float("nan")], [5, 5], [6, 7]])],
            "shape 1, 'cat': the point at nan is no",
        ),
        ([shape("cat", [[1, 1e9], [5, 5], [6, 7]])], "is far outside the image 20x20"),
        ([shape("cat", [[1, 1], [5, 5]])], "expected 3 to 200000 points, got 2"),
        ([shape("cat", "x")], "expected points x, y, got 'x'"),
        ([shape("cat", [[1, 1], [5, 5], [6, 6]], "circle")], "a circle has 2 points, got 3"),
        (
            [shape("cat", [[1, 1], [5, 5], [6, 6]], "mask")],
            "type 'mask'; expected polygon, rectangle",
        ),
        ([[]], "shape 1: expected an object"),
    ],
)
def test_fault_is_told_with_file_and_shape(tmp_path: Path, told: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=rf"0\.jpg: .*{said}"):
        load(write(tmp_path / "d", told))


def test_document_that_is_none_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "d", [])
    for text, said in (
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "no list of shapes"),
        (json.dumps({"shapes": [{}] * 10_001}), "10001 shapes; at most"),
    ):
        (root / "3.json").write_text(text)
        with pytest.raises(DataError, match=rf"3\.json: {said}"):
            load(root)
    (root / "3.jpg").unlink()
    (root / "3.json").write_text(json.dumps({"shapes": [], "imagePath": "../../../x.jpg"}))
    with pytest.raises(DataError, match=r"3\.json: imagePath: '../../../x\.jpg' leads out of"):
        load(root)


@pytest.mark.parametrize(
    ("bound", "most", "said"),
    [
        ("outlines._MOST_STEPS", 100, "shape 5, 'dog': its outlines have more than 100 points"),
        ("outlines._MOST_PAINTED", 1500, "shape 6, 'dog': its areas, one on the other, have more"),
        ("labelme._MOST_LISTS", 60, "more than 60 lists and objects"),
    ],
)
def test_dense_shapes_of_one_image_are_bounded_together(
    bound: str, most: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"training.data.sources.masks.{bound}", most)
    load(write(tmp_path / "few", []))
    with pytest.raises(DataError, match=said):
        load(write(tmp_path / "d", [shape("dog", [[1, 1], [12, 1], [12, 12]])] * 20))
