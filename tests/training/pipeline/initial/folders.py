"""Folders as people have them, small enough to be made by each test."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
from onnx import TensorProto, helper
from PIL import Image

Colour = tuple[int, int, int]
RED, GREEN, BLUE = (220, 40, 40), (40, 220, 40), (40, 40, 220)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


def picture(colour: Colour, seed: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """Noise around a colour."""
    noise = np.random.default_rng(seed).integers(-30, 30, (*size, 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def class_folders(root: Path, per_class: int = 12, size: tuple[int, int] = (40, 40)) -> None:
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            picture(colour, index, size).save(root / name / f"{index:02}.png")


def splits(root: Path) -> None:
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        class_folders(root / split, count)


def wrapped(root: Path) -> None:
    class_folders(root / "archive" / "flowers")


def grey(root: Path) -> None:
    for name, level in (("dark", 40), ("light", 200)):
        (root / name).mkdir(parents=True)
        for index in range(12):
            picture((level,) * 3, index).convert("L").save(root / name / f"{index:02}.png")


def people(root: Path) -> None:
    for person in range(12):
        (root / f"s{person:02}").mkdir(parents=True)
        for index in range(4):
            picture((20 * person,) * 3, index).save(root / f"s{person:02}" / f"{index}.png")


def masks(
    root: Path,
    values: Sequence[int] = (0, 255),
    images: str = "images",
    kind: str = "masks",
    end: str = "",
    convert: Callable[[np.ndarray[Any, Any]], Image.Image] = Image.fromarray,
) -> None:
    """A square in each image; its mask holds the second value and so on, one an image."""
    (root / images).mkdir(parents=True, exist_ok=True)
    (root / kind).mkdir(exist_ok=True)
    for index in range(24):
        image = np.array(picture((30, 30, 30), index))
        mask = np.full((40, 40), values[0], np.uint8)
        place = 1 + index % (len(values) - 1)
        mask[10:26, 8:24] = values[place]
        image[10:26, 8:24, place % 3] = 240
        Image.fromarray(image).save(root / images / f"{index:02}.jpg")
        convert(mask).save(root / kind / f"{index:02}{end}.png")


def unnamed_masks(root: Path) -> None:
    masks(root, (0, 1, 2))


def soft_masks(root: Path) -> None:
    def softened(mask: np.ndarray[Any, Any]) -> Image.Image:
        mask = mask.copy()
        mask[10, 8:24] = np.arange(40, 200, 10)
        return Image.fromarray(mask)

    masks(root, convert=softened)


def voc_colours(root: Path) -> None:
    table = np.zeros((256, 3), np.uint8)
    table[1], table[2] = (128, 0, 0), (0, 128, 0)
    masks(root, (0, 1, 2), convert=lambda mask: Image.fromarray(table[mask]))


def sibling_colours(root: Path) -> None:
    """Kaggle's CamVid: train, train_labels, val, val_labels, in two of its 11 colours."""
    table = np.array([(128, 128, 128), (128, 64, 128)], np.uint8)
    for split in ("train", "val"):
        masks(root, (0, 1), split, f"{split}_labels", convert=lambda m: Image.fromarray(table[m]))


def own_colours(root: Path) -> None:
    table = np.zeros((256, 3), np.uint8)
    table[1], table[2] = (1, 2, 3), (200, 100, 7)
    masks(root, (0, 1, 2), convert=lambda mask: Image.fromarray(table[mask]))


def listed_colours(root: Path) -> None:
    own_colours(root)
    (root / "class_dict.csv").write_text("name,r,g,b\nbackground,0,0,0\ncat,1,2,3\ndog,200,100,7\n")


def suffixed_masks(root: Path) -> None:
    masks(root, images=".", kind=".", end="_mask")


def voc(root: Path) -> None:
    masks(root, (0, 1, 2), "JPEGImages", "SegmentationClass")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    names = [f"{index:02}" for index in range(24)]
    (lists / "train.txt").write_text("\n".join(names[:16]))
    (lists / "val.txt").write_text("\n".join(names[16:]))


def coco(root: Path) -> None:
    masks(root / "drop", (0, 255))
    (root / "drop" / "images").rename(root / "images")
    for file in (root / "drop" / "masks").iterdir():
        file.unlink()
    (root / "drop" / "masks").rmdir()
    (root / "drop").rmdir()
    document = {
        "images": [
            {"id": index, "file_name": f"{index:02}.jpg", "height": 40, "width": 40}
            for index in range(24)
        ],
        "annotations": [
            {
                "id": index,
                "image_id": index,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": [[8, 10, 24, 10, 24, 26, 8, 26]],
            }
            for index in range(24)
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(document))


def labelme(root: Path) -> None:
    root.mkdir(exist_ok=True)
    for index in range(24):
        picture((30, 30, 30), index).save(root / f"{index:02}.jpg")
        points = [[8, 10], [24, 10], [24, 26]]
        shape = {"label": "triangle", "shape_type": "polygon", "points": points}
        document = {
            "imagePath": f"{index:02}.jpg", "imageHeight": 40, "imageWidth": 40,
            "shapes": [shape], "imageData": None,
        }  # fmt: skip
        (root / f"{index:02}.json").write_text(json.dumps(document))


def _loose(root: Path) -> list[tuple[str, str]]:
    """Images in one folder: their names and labels."""
    (root / "images").mkdir(parents=True)
    rows = []
    for label, colour in COLOURS.items():
        for index in range(12):
            name = f"images/{label[0]}{index:02}.png"
            picture(colour, index).save(root / name)
            rows.append((name, label))
    return rows


def csv_table(root: Path) -> None:
    rows = "".join(f"{name},{label}\n" for name, label in _loose(root))
    (root / "labels.csv").write_text(f"file,category\n{rows}")


def json_lines(root: Path) -> None:
    rows = [json.dumps({"image": name, "label": label}) for name, label in _loose(root)]
    (root / "labels.jsonl").write_text("\n".join(rows))


def parquet(root: Path) -> None:
    rows = _loose(root)
    table = pyarrow.table({
        "image": [{"bytes": (root / name).read_bytes(), "path": name} for name, _ in rows],
        "label": [label for _, label in rows],
    })  # fmt: skip
    pyarrow.parquet.write_table(table, root / "train.parquet")
    for name, _ in rows:
        (root / name).unlink()


def metadata(root: Path) -> None:
    rows = "".join(f"{name.split('/')[1]},{label}\n" for name, label in _loose(root))
    (root / "images" / "metadata.csv").write_text(f"file_name,label\n{rows}")


def unusual_metadata(root: Path) -> None:
    metadata(root)
    file = root / "images" / "metadata.csv"
    file.write_text(file.read_text().replace("label", "kind", 1))


def network(file: Path, classes: int = 3, side: int = 32) -> None:
    """A classifier in ONNX: the mean of each colour, once per class."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(0).normal(size=(classes, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "weights"], ["maps"]),
            helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["output"]),
        ],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", classes])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, file)


def triton(root: Path) -> None:
    network(root / "colours" / "1" / "model.onnx")
    (root / "colours" / "config.pbtxt").write_text('name: "colours"\nbackend: "onnxruntime"\n')
