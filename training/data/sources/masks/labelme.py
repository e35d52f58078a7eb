"""Folders of images with labelme's JSON beside them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from serving.base.errors import quoted
from serving.base.files import read_file
from serving.base.folders import IMAGE_SUFFIXES, visible_files, why_no_folder
from serving.images.masks.folders import read_classes
from serving.images.masks.rules import IGNORED, ClassMap
from serving.repository.manifest import EvalTransform
from training.data.remarks import Remarks
from training.data.samples import Dataset
from training.data.sources.masks.dataset import mask_dataset
from training.data.sources.masks.outlines import Effort, Size, check_size, points_of
from training.data.sources.paths import place_below
from training.data.sources.split_folders import beside_splits, split_folders
from training.errors import DataError, data_errors
from training.recipes.masks import LabelmeData

BACKGROUND = "background"
# labelme's own names, which its list of labels begins with.
_BACKGROUND, _IGNORE = "_background_", "__ignore__"
LABELS_FILE = "labels.txt"

# Bytes of a file; labelme puts the image into it unless told otherwise.
_FILE_BYTES = 64 << 20
# Lists and objects in a file, of some 100 bytes each where they are empty. Each point is one.
_MOST_LISTS = 2_000_000
_MOST_SHAPES = 10_000
# Points that a shape of each type has, at least and, where it is fixed, at most.
_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2}
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


class Annotated(NamedTuple):
    """An image and its JSON."""

    path: Path
    document: Path


@data_errors()
def labelme_folder(data: LabelmeData, transform: EvalTransform) -> Dataset:
    """ROOT/NAME.json with the image that it names, or one of the same name; splits may be folders.
    Missing splits are cut at random.

    Polygons, rectangles and circles are drawn in their order, as labelme's own export does; points
    and lines have no area. Raises DataError naming the file and the shape that is wrong.
    """
    root = data.root
    if not root.is_dir():
        raise DataError(f"data.root: {root}: {why_no_folder(root)}")
    folders = split_folders(root, lambda folder: any(folder.rglob("*.json")))
    given = {split: list(_listed(root, folder)) for split, folder in folders.items()}
    if not given["train"]:
        raise DataError(f"{folders['train']}: found no JSON of labelme's")
    classes, numbers = _classes(data, given)
    remarks = Remarks()
    return mask_dataset(
        given,
        lambda pair: pair.path,
        lambda pair, size: _drawn(pair, size, numbers, remarks),
        data=data,
        transform=transform,
        classes=classes,
        remarks=remarks,
        described=f"labelme folder {root.name}",
        left_out=beside_splits(root, folders),
    )


def _listed(root: Path, folder: Path) -> Iterator[Annotated]:
    for document in visible_files(folder):
        if document.suffix.lower() != ".json":
            continue
        beside = (document.with_suffix(ending) for ending in IMAGE_SUFFIXES)
        image = next((file for file in beside if file.is_file()), None)
        if image is None:
            try:
                image = place_below(root, document.parent, _read(document).get("imagePath"))
            except DataError as error:
                raise DataError(f"{document}: imagePath: {error}") from error
        yield Annotated(image, document)


def _read(document: Path) -> dict[str, Any]:
    try:
        content = read_file(document, _FILE_BYTES)
        if content.count(b"[") + content.count(b"{") > _MOST_LISTS:
            raise DataError(f"{document}: more than {_MOST_LISTS:,} lists and objects")
        found = json.loads(content)
    except OSError as error:
        raise DataError(f"{document}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{document}: not valid JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("shapes"), list):
        raise DataError(f"{document}: no list of shapes; expected labelme's JSON")
    if len(found["shapes"]) > _MOST_SHAPES:
        raise DataError(f"{document}: {len(found['shapes'])} shapes; at most {_MOST_SHAPES}")
    return found


def _classes(
    data: LabelmeData, given: Mapping[str, list[Annotated]]
) -> tuple[list[str], dict[str, int]]:
    """The classes, and the class of each label that is not background."""
    if data.classes is not None:
        known = list(data.classes)
    elif (data.root / LABELS_FILE).is_file():
        known = read_classes(data.root / LABELS_FILE)
    else:
        known = sorted({
            str(shape.get("label"))
            for pairs in given.values()
            for pair in pairs
            for shape in _read(pair.document)["shapes"]
            if isinstance(shape, dict)
        })  # fmt: skip
    learnt = [name for name in known if name not in (*data.ignore, _BACKGROUND, _IGNORE)]
    classes = list(dict.fromkeys([BACKGROUND, *learnt]))
    numbers = {name: place for place, name in enumerate(classes)}
    return classes, numbers | dict.fromkeys((*data.ignore, _IGNORE), IGNORED)


def _drawn(pair: Annotated, size: Size, numbers: Mapping[str, int], remarks: Remarks) -> ClassMap:
    document = _read(pair.document)
    height, width = document.get("imageHeight"), document.get("imageWidth")
    if type(height) is int and type(width) is int:
        size = (height, width)
        check_size(size)
    # One canvas, in which each shape is its class: as many canvases as shapes would take minutes.
    canvas = Image.new("I", size[::-1])
    draw, effort = ImageDraw.Draw(canvas), Effort()
    for place, shape in enumerate(document["shapes"], start=1):
        if not isinstance(shape, dict):
            raise DataError(f"shape {place}: expected an object, got {quoted(shape)}")
        kind = shape.get("shape_type") or "polygon"
        if kind in _WITHOUT_AREA:
            remarks.add(f"shapes of type {kind} have no area and are passed over", pair.path.name)
            continue
        label = str(shape.get("label"))
        if label not in numbers:
            remarks.add(f"shapes labelled {quoted(label)} count as background", pair.path.name)
        try:
            _draw(draw, kind, shape.get("points"), size, numbers.get(label, 0), effort)
        except DataError as error:
            raise DataError(f"shape {place}, {quoted(label)}: {error}") from error
    return np.array(canvas).astype(np.int16)


def _draw(
    draw: ImageDraw.ImageDraw, kind: object, told: object, size: Size, value: int, effort: Effort
) -> None:
    """Sets the pixels of a shape, its edge included."""
    if kind not in _POINTS:
        raise DataError(f"type {quoted(kind)}; expected {', '.join(_POINTS)}")
    points = points_of(told, size, effort, _POINTS[str(kind)])
    if kind != "polygon" and len(points) != _POINTS[str(kind)]:
        raise DataError(f"a {kind} has 2 points, got {len(points)}")
    # Pillow looks at every edge in every row.
    rows = min(size[0], int(np.ptp(points[:, 1])) + 1)
    effort.spend(0, size[0] * size[1] if kind == "circle" else rows * (size[1] + len(points)))
    corners = [(float(x), float(y)) for x, y in points]
    if kind == "polygon":
        draw.polygon(corners, fill=value, outline=value)
    elif kind == "rectangle":
        (left, right), (top, bottom) = np.sort(points, axis=0).T
        draw.rectangle((left, top, right, bottom), fill=value, outline=value)
    else:
        # The centre, and a point on the edge.
        (x, y), radius = corners[0], float(np.hypot(*(points[1] - points[0])))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value, outline=value)
