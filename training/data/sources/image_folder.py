"""Folders of images, one folder a class (torchvision's ImageFolder layout)."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from serving.base.files import read_file
from serving.base.folders import list_class_folders, list_images, visible_folders, why_no_folder
from serving.repository.manifest import EvalTransform
from training.data.readers import ImageReader
from training.data.samples import Dataset
from training.data.sources.assemble import assembled, besides, numbered
from training.data.sources.listings.metadata import metadata_file, metadata_labels
from training.data.sources.split_folders import alike, beside_splits, split_folders
from training.errors import DataError, data_errors
from training.recipes.data import ImageFolderData, TableData

LabelledFile = tuple[Path, int]
Item = TypeVar("Item")

_NAMED_CLASSES = 10
# Bytes of an image's file: more than the largest image takes uncompressed.
_IMAGE_BYTES = 256 << 20


@data_errors()
def image_folder(data: ImageFolderData, transform: EvalTransform) -> Dataset:
    """ROOT/CLASS/*.jpg, or ROOT/train/CLASS/*.jpg with val/ and test/ beside it as far as they
    exist; missing splits are cut from the training images, stratified by class. Of several roots
    the images of a split and a class are taken together.

    Classes are the folder names in ASCII order. `test` names the split that is evaluated on. A
    split's folder with metadata.csv and the like is read by it; see metadata_rows.
    Raises DataError naming the folder or files that are missing or broken.
    """
    roots = (data.root,) if isinstance(data.root, Path) else data.root
    for root in roots:
        if not root.is_dir():
            raise DataError(f"data.root: {root}: {why_no_folder(root)}")
    found = [_listed(root, data) for root in roots]
    shared = Path(os.path.commonpath([os.path.abspath(root) for root in roots]))  # noqa: PTH100
    top = roots[0] if len(roots) == 1 else shared
    classes = sorted({label for listing in found for label in listing.given.get("train", {})})
    if len(classes) < 2:
        raise DataError(
            f"{found[0].train}: expected at least two {found[0].unit}, got {len(classes)}"
        )
    given: dict[str, list[LabelledFile]] = {}
    for root, listing in zip(roots, found, strict=True):
        for split, images in numbered(root, listing.given, classes, found[0].train).items():
            given.setdefault(split, []).extend(images)
    return labelled_dataset(
        top,
        given,
        classes,
        f"image folder {', '.join(root.name for root in roots)}",
        data,
        transform,
        label_of=lambda item: item[1],
        name_of=lambda item: shown_name(item[0] if len(roots) == 1 else item[0].absolute(), top),
        content_of=lambda item: image_bytes(item[0]),
        left_out=sum((listing.left_out for listing in found), Counter()),
        notes=tuple(note for listing in found for note in listing.notes),
    )


class _Listing(NamedTuple):
    """One root.

    given: images of each class by split.
    train: the folder, or file, that names the training classes.
    unit: what stands for a class there.
    """

    given: dict[str, dict[str, list[Path]]]
    train: Path
    unit: str
    left_out: Counter[str]
    notes: tuple[str, ...]


def _listed(root: Path, data: ImageFolderData) -> _Listing:
    folders = split_folders(
        root, lambda folder: bool(visible_folders(folder)) or metadata_file(folder) is not None
    )
    left_out = Counter(beside_splits(root, folders))
    given: dict[str, dict[str, list[Path]]] = {}
    by_table = False
    for split, folder in folders.items():
        needed = not visible_folders(folder)
        images = metadata_labels(folder, data.label_column, needed=needed)
        if images is None:
            listing = list_class_folders(folder)
            images = listing.images
            left_out += listing.left_out
        else:
            by_table = by_table or split == "train"
            left_out += _unnamed(folder, images)
        given[split] = images
    train = folders["train"]
    if by_table:
        return _Listing(given, metadata_file(train) or train, "labels", left_out, ())
    return _Listing(given, train, "folders, one a class", left_out, alike(train))


def _unnamed(folder: Path, images: Mapping[str, Sequence[Path]]) -> Counter[str]:
    """The number of images below a split's folder that its table does not name."""
    named = {os.path.normpath(file) for files in images.values() for file in files}
    others = sum(os.path.normpath(file) not in named for file in list_images(folder).images)
    return Counter(
        {f"in no row of {(metadata_file(folder) or folder).name}": others} if others else {}
    )


def labelled_dataset(
    root: Path,
    given: Mapping[str, Sequence[Item]],
    classes: Sequence[str],
    described: str,
    data: ImageFolderData | TableData,
    transform: EvalTransform,
    *,
    label_of: Callable[[Item], int],
    name_of: Callable[[Item], str],
    content_of: Callable[[Item], bytes],
    left_out: Mapping[str, int],
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Images with the numbers of their classes, by split. `content_of` reads an image's file.
    Raises DataError, also where train has no image of a class."""
    with_images = {label_of(item) for item in given["train"]}
    if missing := [name for label, name in enumerate(classes) if label not in with_images]:
        named = ", ".join(missing[:_NAMED_CLASSES])
        raise DataError(
            f"{root}: no images for train of {named} ({len(missing)} of {len(classes)} classes); "
            f"every class needs some to learn from{besides(left_out)}"
        )
    return assembled(
        given,
        ImageReader(content_of, lambda item, size: np.asarray(label_of(item), np.int64), transform),
        root=root,
        classes=classes,
        described=described,
        data=data,
        transform=transform,
        name_of=name_of,
        label_of=label_of,
        left_out=left_out,
        notes=notes,
    )


def shown_name(file: Path, root: Path) -> str:
    """A file's name in reports: its path below the root, if it lies there."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def image_bytes(file: Path) -> bytes:
    """The content of an image's file; of nothing else, as a device or a pipe would never end.
    Raises OSError."""
    return read_file(file, _IMAGE_BYTES)
