"""Images with labels: the source that reads a folder, and what it finds there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.data import Dataset, load_source
from training.data.samples import files_alone
from training.errors import DataError
from training.pipeline.initial.found.facts import Counts, Labelled
from training.pipeline.initial.found.kinds import Kind, kinds
from training.pipeline.initial.found.look import SEEN
from training.pipeline.initial.found.mask_values import named_masks
from training.pipeline.initial.found.walk import Folder, Tree
from training.recipes import parse_recipe

# Folders around the data that are entered, such as those an archive brings along.
_WRAPPERS = 3
# Sources whose folders nobody has for another reason, and those that take any folders for classes.
_MASKS, _CLASSES = ("mask_folder", "voc"), ("image_folder", "identity_folder")


def find_labelled(tree: Tree, task: str | None) -> Labelled | None:
    """The labelled images of a folder, or of the one folder in it that holds everything; None
    where there are none. `task` is the one that is wanted, where it is known.

    Raises DataError where a layout is recognised and no source can read it.
    """
    folder, failure = tree.root, None
    for _ in range(_WRAPPERS):
        for kind in _possible(folder):
            if task is not None and task not in kind.tasks:
                continue
            try:
                return opened(kind, folder, task)
            except DataError as error:
                failure = failure or error
        if folder.image_count or len(folder.folders) != 1:
            break
        folder = next(iter(folder.folders.values()))
    if failure is not None:
        raise failure
    return None


def _possible(folder: Folder) -> list[Kind]:
    found = list(kinds(folder))
    if any(kind.data["source"] in _MASKS for kind in found):
        # Folders of images and masks are no classes, even where the masks cannot be read.
        found = [kind for kind in found if kind.data["source"] not in _CLASSES]
    return found


def opened(kind: Kind, folder: Folder, task: str | None = None) -> Labelled:
    """What the source finds that reads a layout. Raises DataError where it cannot."""
    data = dict(kind.data)
    wanted = task or kind.tasks[0]
    if wanted == "embedding":
        data["source"] = "identity_folder"
    notes: tuple[str, ...] = ()
    try:
        found = _opened(wanted, data)
    except DataError:
        if data["source"] != "mask_folder":
            raise
        named = named_masks(folder.path)
        if named is None:
            raise
        data |= named.data
        notes = named.notes
        found = _opened(wanted, data)
    given = ["train"] + [
        split for split in ("val", "test") if f"{split} cut" not in found.description
    ]
    return Labelled(
        data=data,
        how=kind.how,
        tasks=kind.tasks,
        sure=kind.sure,
        classes=found.classes,
        images=Counts(len(found.train), len(found.val), len(found.test)),
        given=tuple(given),
        samples=found.train,
        example=_example(folder.path, found),
        notes=(*notes, *found.notes),
    )


def _opened(task: str, data: Mapping[str, Any]) -> Dataset:
    document = {
        "name": "look",
        "task": task,
        "data": dict(data),
        "transform": {"resize": [SEEN, SEEN]},
        "model": {"name": "resnet18"},
        "train": "none",
    }
    with files_alone():
        return load_source(parse_recipe(document))


def _example(root: Path, found: Dataset) -> str:
    for samples in (found.test, found.train):
        if len(samples) and (root / samples.names[0]).is_file():
            return str(root / samples.names[0])
    return ""


def unlabelled(top: Folder) -> DataError:
    """The error for a folder from which nothing can be built."""
    images = top.images_below()
    if not images:
        others = sum((folder.endings for folder in top.all()), start=type(top.endings)())
        seen = ", ".join(f"{count} {ending}" for ending, count in others.most_common(5))
        return DataError(
            f"{top.path}: no images, and no network in a file (.onnx, .pt2); got "
            f"{seen or 'an empty folder'}"
        )
    with_images = [name for name, folder in top.folders.items() if folder.images_below()]
    if len(with_images) == 1 and not top.image_count:
        told = f"{images} images in one folder, {with_images[0]}/, are one class"
    else:
        told = f"{images} images, and nothing that says the class of each"
    return DataError(
        f"{top.path}: {told}; expected a folder of images for each class (at least two), images/ "
        "with masks/, COCO's or labelme's JSON, or a table with their labels"
    )
