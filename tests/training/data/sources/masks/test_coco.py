"""COCO's JSON: outlines to class maps, and documents that are not what they seem."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco

from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset
from training.data.sources.masks import json_records
from training.data.sources.masks.coco import coco_dataset
from training.errors import DataError
from training.recipes.masks import CocoData

SIZE = 24
# Ids with gaps, not in the order of their names.
CATEGORIES = [{"id": 90, "name": "zebra"}, {"id": 3, "name": "cat"}, {"id": 17, "name": "grass"}]


def square(left: float, top: float, side: float) -> list[float]:
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def outline(image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **more}


def document(annotations: list[dict[str, Any]], count: int = 10) -> dict[str, Any]:
    return {
        "info": {"description": "made", "nested": [{"a": [1, {"b": "}]"}]}]},
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations)],
        "images": [
            {"id": 100 + i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE}
            for i in range(count)
        ],
        "categories": [dict(category) for category in CATEGORIES],
    }


def write(root: Path, told: Any, name: str = "annotations/instances_train2017.json") -> Path:
    """The document with its images, all in one folder."""
    (root / "images").mkdir(exist_ok=True)
    for index in range(10):
        pixels = np.full((SIZE, SIZE, 3), 20 * index, np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(told if isinstance(told, str) else json.dumps(told))
    return root


def load(root: Path, **keys: Any) -> Dataset:
    data = CocoData.model_validate({"source": "coco", "root": root, **keys})
    return coco_dataset(data, EvalTransform(resize=(SIZE, SIZE)))


def masks_of(data: Dataset) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for split in (data.train, data.val, data.test):
        found |= dict(zip(split.names, split.batch(range(len(split)))[1], strict=True))
    return found


def test_polygons_are_classes_by_the_order_of_their_ids(tmp_path: Path) -> None:
    told = [
        outline(100, 90, [square(4, 6, 8)]),
        outline(101, 3, [square(0, 0, 3), square(9, 9, 4)]),
    ]
    data = load(write(tmp_path, document(told)))
    assert data.classes == ("background", "cat", "grass", "zebra")
    masks = masks_of(data)
    expected = np.zeros((SIZE, SIZE), np.uint8)
    expected[6:14, 4:12] = 3
    assert np.array_equal(masks["images/0.png"], expected)
    expected = np.zeros((SIZE, SIZE), np.uint8)
    expected[0:3, 0:3] = expected[9:13, 9:13] = 1
    assert np.array_equal(masks["images/1.png"], expected)
    assert not masks["images/2.png"].any()


def lengths(mask: np.ndarray) -> list[int]:
    """Run lengths, column by column, from background."""
    flat = mask.ravel(order="F")
    places = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *places, len(flat)]).tolist()
    return [0, *runs] if flat[0] else runs


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_drawn_as_pycocotools_reads_them(
    tmp_path: Path, compressed: bool, seed: int
) -> None:
    area = np.random.default_rng(seed).random((SIZE, SIZE)) < (0.02, 0.5, 0.98, 1.0)[seed]
    counts: Any = lengths(area.astype(np.int8))
    if compressed:
        counts = pycoco.encode(np.asfortranarray(area.astype(np.uint8)))["counts"].decode()
    told = [outline(103, 17, {"counts": counts, "size": [SIZE, SIZE]})]
    masks = masks_of(load(write(tmp_path, document([*told, outline(100, 3, [square(1, 1, 9)])]))))
    assert np.array_equal(masks["images/3.png"] == 2, area)


def test_small_objects_cover_large_ones_and_crowds_are_ignored_below_them(tmp_path: Path) -> None:
    told = [
        outline(100, 3, [square(8, 8, 4)]),
        outline(100, 90, [square(4, 4, 12)]),
        outline(100, 3, [square(0, 0, 8)], iscrowd=1),
    ]
    mask = masks_of(load(write(tmp_path, document(told))))["images/0.png"]
    assert (mask[9, 9], mask[5, 5], mask[1, 1], mask[20, 20]) == (1, 3, 255, 0)


def test_classes_choose_and_ignore_leaves_out(tmp_path: Path) -> None:
    told = [outline(100, n, [square(x, 0, 4)]) for n, x in ((90, 0), (3, 8), (17, 16))]
    write(tmp_path, document(told))
    data = load(tmp_path, classes=["zebra"], ignore=["grass"])
    assert data.classes == ("background", "zebra")
    assert masks_of(data)["images/0.png"][1, [1, 9, 17]].tolist() == [1, 0, 255]
    with pytest.raises(DataError, match=r"data\.classes: 'cow' is no category"):
        load(tmp_path, classes=["cow"])


def test_splits_are_found_by_the_usual_names(tmp_path: Path) -> None:
    told = document([outline(100, 3, [square(2, 2, 9)])])
    for split in ("train", "valid"):
        folder = tmp_path / "roboflow" / split
        folder.mkdir(parents=True)
        write(tmp_path, told)
        for file in (tmp_path / "images").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "_annotations.coco.json").write_text(json.dumps(told))
    data = load(tmp_path / "roboflow")
    assert (len(data.val), data.val.names[0]) == (10, "valid/0.png")
    write(tmp_path, told, "annotations/instances_val2017.json")
    write(tmp_path, told, "annotations/captions_val2017.json")
    assert len(load(tmp_path).val) == 10
    files = {"train": "annotations/instances_train2017.json"}
    assert len(load(tmp_path, annotations=files, images="images").val) == 1


def test_annotations_without_an_outline_are_told(tmp_path: Path) -> None:
    told = [outline(100, 3, [square(2, 2, 9)]), outline(101, 3, [])]
    assert load(write(tmp_path, document(told))).remarks.lines() == [
        "annotations without an outline count as background (1 file, first 1.png)"
    ]


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    told = document([outline(100, 3, [square(2, 2, 9)])])
    change(told)
    return told


def segmented(segmentation: Any) -> dict[str, Any]:
    return document([outline(100, 3, segmentation)])


FULL = SIZE * SIZE


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (segmented([[1, 2, float("nan"), 4, 5, 6]]), "annotation 0: the point at nan is no number"),
        (segmented([[1, 2, 1e9, 4, 5, 6]]), r"the point at 1e\+09 is far outside the image 24x24"),
        (segmented([[1, 2, float("inf"), 4, 5, 6]]), "the point at inf is far outside"),
        (segmented([[1, 2, 3]]), r"expected points x, y, got \[1, 2, 3\]"),
        (segmented([["a", "b"]]), "expected points x, y"),
        (segmented([[[[[[]]]]]]), "expected 1 to 200000 points, got 0"),
        (segmented([[1, 2] * 300_000]), "expected 1 to 200000 points, got 300000"),
        (segmented([[0, 0, 90, 90] * 40_000]), "an outline of 7199910 pixels, at most 2000000 are"),
        (segmented("x"), "segmentation: expected polygons or run lengths, got 'x'"),
        (segmented({"counts": [FULL + 1], "size": [SIZE] * 2}), "run lengths of 577 pixels for an"),
        (segmented({"counts": [-1, FULL + 1], "size": [SIZE] * 2}), "run lengths of 576 pixels"),
        (segmented({"counts": [1 << 80], "size": [SIZE] * 2}), "run lengths of 12089"),
        (segmented({"counts": "ooooo", "size": [SIZE] * 2}), "not COCO's text of run lengths"),
        (segmented({"counts": "o" * 99, "size": [SIZE] * 2}), "not COCO's text of run lengths"),
        (segmented({"counts": "\u20ac", "size": [SIZE] * 2}), "not COCO's text of run lengths"),
        (
            segmented({"counts": [FULL], "size": [9, 9]}),
            r"run lengths of size \[9, 9\] for an image",
        ),
        (segmented({"counts": None, "size": [SIZE] * 2}), "expected run lengths, got None"),
        (changed(lambda d: d["annotations"][0].update(category_id=5)), "category 5 is not listed"),
        (changed(lambda d: d["annotations"][0].update(image_id=5)), "image 5, which is not listed"),
        (
            changed(lambda d: d["annotations"][0].update(image_id="x")),
            "image_id of annotations: exp",
        ),
        (changed(lambda d: d["images"][1].update(id=100)), "two images have one id"),
        (changed(lambda d: d["images"][1].update(file_name="../../x")), "leads out of"),
        (changed(lambda d: d["images"][1].update(file_name="")), "expected the path of a file"),
        (changed(lambda d: d["images"][1].update(file_name="\ud800")), "expected the path of a"),
        (changed(lambda d: d["images"][1].update(file_name=[1])), r"expected a file_name, got \[1"),
        (
            changed(lambda d: d["categories"][1].update(name="\ud800")),
            "'.ud800' is no text in UTF-8",
        ),
        (changed(lambda d: d["images"][1].update(height=10**6, width=10**6)), "1000000x1000000"),
        (changed(lambda d: d["images"][0].update(file_name="x.png")), "no image 'x.png' in annot"),
        (changed(lambda d: d["images"][1].update(height=SIZE * 2)), "its mask 24x48; expected the"),
        (changed(lambda d: d.pop("categories")), "no categories with names"),
        (changed(lambda d: [d[key].clear() for key in ("images", "annotations")]), "no images"),
        ("[1]", "byte 0: expected {"),
        ('{"images": [1]}', "images: expected a list of objects"),
        ('{"images": [{"id": 1}', "not valid JSON, or cut short"),
        ('{"images": [{"id": ', "not valid JSON"),
        ('{"images": ' + "[" * 100_000, "nested too deep|not valid JSON|expected a list"),
    ],
)
def test_fault_is_told_in_one_line_with_its_place(tmp_path: Path, told: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        load(write(tmp_path, told))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_value_of_many_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "MOST_BYTES", 3 << 20)
    with pytest.raises(DataError, match="one value of more than 3 MiB, or no JSON"):
        load(write(tmp_path, segmented([[1.5] * 2_000_000])))


@pytest.mark.parametrize(
    ("segmentation", "bounds", "said"),
    [
        ([square(0, 0, 9)], {"outlines._MOST_STEPS": 500}, "have more than 500 points, runs and"),
        ({"size": [24, 24], "counts": [0, *[1] * 576]}, {"outlines._MOST_STEPS": 900}, "than 900"),
        ({"size": [24, 24], "counts": "n" * 100}, {"outlines._MOST_STEPS": 99}, "than 99 points"),
        ([square(0, 0, 20)], {"outlines._MOST_PAINTED": 7000}, "more than 7,000 pixels"),
        ([square(0, 0, 9)], {"coco._MOST_BYTES": 1000}, "at most 0 are read for an image"),
    ],
)
def test_dense_annotations_of_one_image_are_bounded_together(
    segmentation: Any, bounds: dict[str, int], said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, most in bounds.items():
        monkeypatch.setattr(f"training.data.sources.masks.{name}", most)
    load(write(tmp_path, document([outline(101, 3, [square(0, 0, 4)])])))
    with pytest.raises(DataError, match=said):
        load(write(tmp_path, document([outline(100, 3, segmentation)] * 20)))


def test_many_polygons_of_one_annotation_are_joined(tmp_path: Path) -> None:
    told = [square(index % 20, index // 20 * 2, 1) for index in range(200)]
    mask = masks_of(load(write(tmp_path, document([outline(100, 3, told)]))))["images/0.png"]
    expected = np.zeros((SIZE, SIZE), np.uint8)
    expected[0:20:2, :20] = 1
    assert np.array_equal(mask, expected)


def test_document_larger_than_its_window_is_read_record_by_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [outline(100 + i % 10, 3, [square(i % 9, i % 7, 4)]) for i in range(200)]
    whole = masks_of(load(write(tmp_path, document(told))))
    monkeypatch.setattr(json_records, "_CHUNK", 37)
    by_pieces = masks_of(load(tmp_path))
    assert all(np.array_equal(whole[name], by_pieces[name]) for name in whole)


def test_names_are_read_in_utf_8(tmp_path: Path) -> None:
    told = changed(lambda d: d["categories"][1].update(name="Kätzchen"))
    write(tmp_path, json.dumps(told, ensure_ascii=False))
    assert load(tmp_path).classes[1] == "Kätzchen"
    write(tmp_path, json.dumps(told))
    assert load(tmp_path).classes[1] == "Kätzchen"
    write(tmp_path, json.dumps(told, ensure_ascii=False).replace("chen", "\\u4e2d"))
    assert load(tmp_path).classes[1] == "Kätz中"


def test_missing_document_and_several_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no JSON of annotations for train; data\.annotations says"
    ):
        load(tmp_path)
    told = segmented([square(2, 2, 9)])
    write(tmp_path, told, "annotations/a_train.json")
    write(tmp_path, told, "annotations/b_train.json")
    with pytest.raises(DataError, match=r"a_train\.json and b_train\.json are both JSON for train"):
        load(tmp_path)


def test_category_with_two_names_is_told(tmp_path: Path) -> None:
    told = document([])
    told["categories"].append({"id": 3, "name": "dog"})
    with pytest.raises(DataError, match="category 3 is 'cat' and 'dog'"):
        load(write(tmp_path, told))
