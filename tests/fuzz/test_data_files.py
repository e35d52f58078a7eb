"""Whatever stands in the files of a data set, it is read or named as wrong in one line."""

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.base.errors import InvalidInput
from serving.images.masks.files import read_mask
from serving.images.masks.tables import read_table
from serving.repository.manifest import EvalTransform
from tests.fuzz.changed import changed, check_line
from tests.support.mutation import changed_bytes, changed_document
from training.data.sources.listings.columns import LABEL_COLUMNS, PATH_COLUMNS, Columns
from training.data.sources.listings.text_rows import csv_rows, json_rows
from training.data.sources.masks.coco import coco_dataset
from training.data.sources.masks.labelme import labelme_folder
from training.errors import DataError
from training.recipes.masks import CocoData, LabelmeData

SIZE = 12
TABLES = [
    "name,r,g,b,value\nroad,1,2,3,7\nsky,4,5,6,8\n",
    '{"road": [1, 2, 3], "sky": "#040506"}',
    "- {name: road, colour: [1, 2, 3], value: 7}\n- {name: sky, colour: '#040506', ignored: 1}\n",
    "1 2 3 road\n4 5 6 sky\n",
]
ROWS = ["path,label,split\na.png,x,train\nb.png,y,val\n", '{"path": "a.png", "label": 1}\n' * 2]
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE} for i in range(4)],
    "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 0, "category_id": 5, "segmentation": [SQUARE], "iscrowd": 0},
        {
            "id": 2,
            "image_id": 1,
            "category_id": 9,
            "segmentation": {"counts": [30, 14, 100], "size": [SIZE, SIZE]},
        },
    ],
}
LABELME = {
    "imagePath": "0.png",
    "imageHeight": SIZE,
    "imageWidth": SIZE,
    "shapes": [
        {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"},
        {"label": "dog", "points": [[4, 4], [4, 7]], "shape_type": "circle"},
    ],
}


def changed_text(rng: random.Random, text: str) -> bytes:
    return changed_bytes(rng, text.encode())


def changed_json(rng: random.Random, document: Any) -> bytes:
    """Changes of its structure, or of its text."""
    structure = rng.random() < 0.7
    told = json.dumps(changed_document(rng, document) if structure else document).encode()
    return told if structure else changed_bytes(rng, told)


def check_files(error: Exception) -> None:
    """One line, which may name ten files."""
    assert 0 < len(str(error)) < 6000
    assert "\n" not in str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("data")
    for index in range(4):
        pixels = np.full((SIZE, SIZE, 3), 50 * index, np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
        (root / f"{index}.json").write_text(json.dumps(LABELME))
    (root / "coco").mkdir()
    return root


@settings(settings.get_profile("fuzz"))
@given(text=changed(TABLES, changed_text), ending=st.sampled_from(["csv", "json", "yaml", "txt"]))
def test_a_table_of_colours(folder: Path, text: bytes, ending: str) -> None:
    (folder / f"t.{ending}").write_bytes(text)
    try:
        table = read_table(f"t.{ending}", folder)
    except InvalidInput as error:
        check_line(error)
        return
    assert all(row.name and (row.colour or row.value is not None) for row in table.rows)


@settings(settings.get_profile("fuzz"))
@given(text=changed(ROWS, changed_text), lines=st.booleans())
@example(text=b'": 1}\n{"path": "a.png"}\n', lines=False)
def test_rows_of_a_table(folder: Path, text: bytes, lines: bool) -> None:
    file = folder / "rows.txt"
    file.write_bytes(text)
    wanted = Columns(PATH_COLUMNS, LABEL_COLUMNS)
    try:
        rows = list(json_rows(file, wanted) if lines else csv_rows(file, wanted))
    except DataError as error:
        check_line(error)
        return
    assert all(row.path and row.label for row in rows)


@settings(settings.get_profile("fuzz"))
@given(text=changed([COCO], changed_json))
@example(text=b'{"images": [' + b"[" * 100_000)
@example(text=b'{"images": [{"id": 1e999}]}')
def test_a_document_of_coco(folder: Path, text: bytes) -> None:
    (folder / "coco" / "train.json").write_bytes(text)
    data = CocoData(source="coco", root=folder, annotations="coco/train.json", images=".")
    try:
        found = coco_dataset(data, EvalTransform(resize=(SIZE, SIZE)))
    except DataError as error:
        check_files(error)
        return
    assert found.train.batch([0])[1].max() <= 255


@settings(settings.get_profile("fuzz"))
@given(text=changed([LABELME], changed_json))
def test_a_document_of_labelme(folder: Path, text: bytes) -> None:
    (folder / "0.json").write_bytes(text)
    data = LabelmeData(source="labelme", root=folder)
    try:
        found = labelme_folder(data, EvalTransform(resize=(SIZE, SIZE)))
    except DataError as error:
        check_files(error)
        return
    assert found.classes[0] == "background"


def masks() -> list[bytes]:
    values = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
    images = {
        "PNG": Image.fromarray(values.astype(np.uint16) * 9),
        "GIF": Image.fromarray(values).convert("P"),
        "TIFF": Image.fromarray(values),
        "BMP": Image.fromarray(values).convert("RGB"),
        "JPEG": Image.fromarray(values),
    }
    files = []
    for kind, image in images.items():
        stream = io.BytesIO()
        image.save(stream, kind)
        files.append(stream.getvalue())
    return files


@settings(settings.get_profile("fuzz"))
@given(data=changed(masks(), changed_bytes))
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_mask(folder: Path, data: bytes) -> None:
    (folder / "mask").write_bytes(data)
    try:
        found = read_mask(folder / "mask")
    except InvalidInput as error:
        check_line(error)
        return
    assert found.size[0] * found.size[1] > 0
