"""COCO's JSON of images, categories and outlines."""

import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.base.errors import quoted
from serving.base.folders import why_no_folder
from serving.images.masks.rules import IGNORED, ClassMap
from serving.repository.manifest import EvalTransform
from training.data.remarks import Remarks
from training.data.samples import Dataset
from training.data.sources.masks.coco_files import coco_files
from training.data.sources.masks.dataset import mask_dataset
from training.data.sources.masks.json_records import Record, as_text, read_records, records
from training.data.sources.masks.outlines import (
    Area,
    Effort,
    Size,
    check_size,
    paint,
    pixel_count,
    polygons,
    run_lengths,
)
from training.data.sources.paths import place_below
from training.errors import DataError, data_errors
from training.recipes.masks import CocoData

BACKGROUND = "background"

# Annotations of one image that are drawn, at most, and their bytes; a crowded picture of LVIS has
# some hundred.
_MOST_SHAPES = 10_000
_MOST_BYTES = 64 << 20


class Picture(NamedTuple):
    """An image of a document.

    path: its file.
    size: height and width as the document has them; None where it has none.
    outlines: the document's index.
    number: the image's id.
    """

    path: Path
    size: Size | None
    outlines: "Outlines"
    number: int


@dataclass
class Outlines:
    """Where the annotations of each image lie in a document.

    file: the document.
    images: int64 [N], ascending: the image of each annotation.
    places: int64 [N, 2]: its bytes, from and to.
    """

    file: Path
    images: NDArray[np.int64]
    places: NDArray[np.int64]

    def of(self, image: int) -> list[tuple[int, int]]:
        """The places of an image's annotations, in the order of the file."""
        first, last = np.searchsorted(self.images, [image, image + 1])
        return [(int(start), int(end)) for start, end in self.places[first:last]]


@data_errors()
def coco_dataset(data: CocoData, transform: EvalTransform) -> Dataset:
    """The images of COCO documents, one a split, with class maps drawn from their outlines;
    missing splits are cut at random.

    Class 0 is background, where nothing is outlined; the others are the categories by id. Of areas
    that overlap, the smaller one is seen; crowds are ignored where no object is outlined. Images
    without annotations are background.
    Raises DataError naming the file, and the annotation that is wrong.
    """
    if not data.root.is_dir():
        raise DataError(f"data.root: {data.root}: {why_no_folder(data.root)}")
    remarks = Remarks()
    given: dict[str, list[Picture]] = {}
    names: dict[int, str] = {}
    for split, (file, folders) in coco_files(data).items():
        given[split], found = _read(data.root, file, folders)
        for number, name in found.items():
            if names.setdefault(number, name) != name:
                raise DataError(
                    f"{file}: category {number} is {quoted(name)}, elsewhere "
                    f"{quoted(names[number])}"
                )
    classes, numbers = _classes(data, names)

    def class_map(picture: Picture, size: Size) -> ClassMap:
        return _drawn(picture, picture.size or size, numbers, remarks)

    return mask_dataset(
        given,
        lambda picture: picture.path,
        class_map,
        data=data,
        transform=transform,
        classes=classes,
        remarks=remarks,
        described=f"COCO annotations in {data.root.name}",
    )


def _read(root: Path, file: Path, folders: Sequence[Path]) -> tuple[list[Picture], dict[int, str]]:
    """The images and the categories of a document."""
    owners, places = array("q"), array("q")
    entries: list[tuple[int, str, Size | None]] = []
    names: dict[int, str] = {}
    for record in records(file, ("images", "annotations", "categories")):
        match record.key:
            case "annotations":
                owners.append(_id(record, "image_id", file))
                places.extend((record.start, record.end))
            case "images":
                entries.append(_entry(record, file))
            case _:
                number, name = _id(record, "id", file), as_text(record.value.get("name", ""))
                if names.setdefault(number, name.strip()) != name.strip():
                    raise DataError(
                        f"{file}: category {number} is {quoted(names[number])} and "
                        f"{quoted(name.strip())}"
                    )
    if not names or not all(names.values()):
        raise DataError(f"{file}: no categories with names; expected COCO's JSON")
    images = np.array(owners, np.int64)
    order = np.argsort(images, kind="stable")
    outlines = Outlines(file, images[order], np.array(places, np.int64).reshape(-1, 2)[order])
    known = np.array([number for number, _, _ in entries], np.int64)
    if strange := np.setdiff1d(images, known).tolist():
        raise DataError(f"{file}: an annotation of image {strange[0]}, which is not listed")
    if len(np.unique(known)) < len(known):
        raise DataError(f"{file}: two images have one id")
    folder = _home(root, folders, entries, file)
    return [
        Picture(_place(root, folder, name, number, file), size, outlines, number)
        for number, name, size in entries
    ], names


def _place(root: Path, folder: Path, name: str, number: int, file: Path) -> Path:
    try:
        return place_below(root, folder, name)
    except DataError as error:
        raise DataError(f"{file}: image {number}: {error}") from error


def _home(
    root: Path, folders: Sequence[Path], entries: Sequence[tuple[int, str, Size | None]], file: Path
) -> Path:
    """The first of `folders` that holds the first image."""
    if not entries:
        raise DataError(f"{file}: no images")
    number, name, _ = entries[0]
    for folder in folders:
        # A name may be too long for the system, of which os.path says that there is no such file.
        if os.path.isfile(_place(root, folder, name, number, file)):  # noqa: PTH113
            return folder
    shown = ", ".join(str(folder.relative_to(root)) + "/" for folder in folders)
    raise DataError(f"{file}: no image {quoted(name)} in {shown}; data.images says where they are")


def _id(record: Record, key: str, file: Path) -> int:
    value = record.value.get(key)
    if type(value) is not int or abs(value) >= 1 << 62:
        raise DataError(
            f"{file}: byte {record.start}: {key} of {record.key}: expected a whole number, got "
            f"{quoted(value)}"
        )
    return value


def _entry(record: Record, file: Path) -> tuple[int, str, Size | None]:
    number = _id(record, "id", file)
    height, width = record.value.get("height"), record.value.get("width")
    if height is None or width is None:
        size = None
    else:
        size = (_id(record, "height", file), _id(record, "width", file))
        try:
            check_size(size)
        except DataError as error:
            raise DataError(f"{file}: image {number}: {error}") from error
    name = record.value.get("file_name")
    if not isinstance(name, str):
        raise DataError(f"{file}: image {number}: expected a file_name, got {quoted(name)}")
    return number, as_text(name), size


def _classes(data: CocoData, names: Mapping[int, str]) -> tuple[list[str], dict[int, int]]:
    """The classes, and the class of each category: that of the background or IGNORED for those
    that are not learnt."""
    known = [names[number] for number in sorted(names)]
    for key, told in (("classes", data.classes or ()), ("ignore", data.ignore)):
        for name in told:
            if name not in known and name != BACKGROUND:
                raise DataError(f"data.{key}: {quoted(name)} is no category of {data.root}")
    wanted = data.classes if data.classes is not None else known
    learnt = [name for name in wanted if name not in data.ignore]
    classes = list(dict.fromkeys([BACKGROUND, *learnt]))
    places = {name: place for place, name in enumerate(classes)}
    return classes, {
        number: IGNORED if name in data.ignore else places.get(name, 0)
        for number, name in names.items()
    }


def _drawn(picture: Picture, size: Size, numbers: Mapping[int, int], remarks: Remarks) -> ClassMap:
    """The class of each pixel: crowds first, then objects, the largest first."""
    places = picture.outlines.of(picture.number)
    if len(places) > _MOST_SHAPES:
        raise DataError(f"{len(places)} annotations; at most {_MOST_SHAPES} are drawn")
    if (length := sum(end - start for start, end in places)) > _MOST_BYTES:
        raise DataError(
            f"annotations of {length >> 20} MiB; at most {_MOST_BYTES >> 20} are read for an image"
        )
    effort = Effort()
    shapes: list[tuple[bool, int, int, Area]] = []
    for value in read_records(picture.outlines.file, places):
        told = f"annotation {quoted(value.get('id'))}"
        try:
            area = _area(value.get("segmentation"), size, effort)
        except DataError as error:
            raise DataError(f"{told}: {error}") from error
        number = value.get("category_id")
        if type(number) is not int or number not in numbers:
            raise DataError(f"{told}: category {quoted(number)} is not listed")
        if area is None:
            remarks.add("annotations without an outline count as background", picture.path.name)
            continue
        crowd = bool(value.get("iscrowd"))
        place = IGNORED if crowd else numbers[number]
        shapes.append((not crowd, -pixel_count(area), place, area))
    columns = np.zeros(size[::-1], np.int16)
    for _, _, place, area in sorted(shapes, key=lambda shape: shape[:2]):
        paint(columns, area, place, effort)
    return np.ascontiguousarray(columns.T)


def _area(told: Any, size: Size, effort: Effort) -> Area | None:
    if isinstance(told, dict):
        if told.get("size") != list(size):
            raise DataError(
                f"run lengths of size {quoted(told.get('size'))} for an image of {list(size)}"
            )
        return run_lengths(told.get("counts"), size, effort)
    if not told:
        return None
    if not isinstance(told, list):
        raise DataError(f"segmentation: expected polygons or run lengths, got {quoted(told)}")
    return polygons(told, size, effort)
