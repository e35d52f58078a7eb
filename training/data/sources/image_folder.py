"""Folders of images, one folder a class (torchvision's ImageFolder layout)."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from serving.base.errors import quoted
from serving.base.files import read_file
from serving.base.folders import list_class_folders, list_images, told, visible_folders
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.data.samples import Dataset, Loaded, read_splits
from training.data.sources.listings.metadata import metadata_file, metadata_labels
from training.data.sources.paths import is_text
from training.data.sources.split_folders import alike, beside_splits, split_folders
from training.data.split import complete
from training.errors import DataError, data_errors
from training.recipes.data import ImageFolderData, TableData

LabelledFile = tuple[Path, int]
Item = TypeVar("Item")

_NAMED_CLASSES = 10
# Bytes of an image's file: more than the largest image takes uncompressed.
_IMAGE_BYTES = 256 << 20
# Characters of a class's name; longer ones are captions.
_NAME_LENGTH = 256


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
            raise DataError(f"data.root: {root} is not a folder")
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
        for split, images in listing.given.items():
            if strangers := sorted(set(images) - set(classes)):
                raise DataError(
                    f"{root}: {split}: folders {strangers} are not classes of {found[0].train}"
                )
            given.setdefault(split, []).extend(
                (file, number)
                for number, label in enumerate(classes)
                for file in images.get(label, ())
            )
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
        images = metadata_labels(folder, data.label_column)
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
    """Images with the numbers of their classes, by split; missing splits are cut as split.complete
    does. `content_of` reads an image's file. Raises DataError, also where train has no image of a
    class."""
    check_names(classes, root)
    with_images = {label_of(item) for item in given["train"]}
    if missing := [name for label, name in enumerate(classes) if label not in with_images]:
        named = ", ".join(missing[:_NAMED_CLASSES])
        raise DataError(
            f"{root}: no images for train of {named} ({len(missing)} of {len(classes)} classes); "
            f"every class needs some to learn from{besides(left_out)}"
        )
    try:
        parts, words = complete(
            given,
            label_of,
            val_fraction=data.val_fraction,
            test_fraction=data.test_fraction,
            split_seed=data.split_seed,
            test=data.test,
        )
    except DataError as error:
        raise DataError(f"{root}: {error}{besides(left_out)}") from error
    height, width = transform.size
    samples = read_splits(
        str(root),
        parts,
        name_of,
        lambda item: labelled(content_of(item), label_of(item), transform),
        height * width * transform.channels,
    )
    return Dataset(
        name=root.name,
        description=f"{described}; {words}",
        classes=tuple(classes),
        train=samples["train"],
        val=samples["val"],
        test=samples["test"],
        left_out=left_out,
        notes=notes,
    )


def check_names(classes: Sequence[str], root: Path) -> None:
    """Raises DataError for a class that no file could name, and for two that have one name."""
    if strange := [name for name in classes if not is_text(name)]:
        raise DataError(f"{root}: the class {quoted(strange[0])} is no text in UTF-8")
    if long := [name for name in classes if len(name) > _NAME_LENGTH]:
        raise DataError(
            f"{root}: the class {quoted(long[0])} has {len(long[0]):,} characters; expected at "
            f"most {_NAME_LENGTH}: is it a caption?"
        )
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise DataError(f"{root}: two classes are called {quoted(twice[0])}")


def besides(left_out: Mapping[str, int]) -> str:
    """The files that are left out, as the end of a message on missing ones."""
    return f"; files left out: {told(left_out)}" if left_out else ""


def shown_name(file: Path, root: Path) -> str:
    """A file's name in reports: its path below the root, if it lies there."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def image_bytes(file: Path) -> bytes:
    """The content of an image's file; of nothing else, as a device or a pipe would never end.
    Raises OSError."""
    return read_file(file, _IMAGE_BYTES)


def load_labelled(file: Path, label: int, eval_transform: EvalTransform) -> Loaded:
    """An image file with the number of its class. Raises InvalidInput, OSError."""
    return labelled(image_bytes(file), label, eval_transform)


def labelled(content: bytes, label: int, eval_transform: EvalTransform) -> Loaded:
    """The content of an image file with the number of its class. Raises InvalidInput."""
    image = load_image(content, eval_transform)
    return Loaded(image.pixels, np.asarray(label, dtype=np.int64), image.size)
