"""From a folder that nobody described to the data set that it is."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from serving.base.task import Task
from serving.repository.manifest import EvalTransform
from training.data import load_source
from training.data.layout.kinds import Kind, kinds
from training.data.layout.walk import Folder, Tree
from training.data.samples import Dataset
from training.errors import DataError
from training.recipes import parse_recipe

# Folders around the data that are entered, such as those an archive brings along.
_WRAPPERS = 3
# Sources whose folders nobody has for another reason, and those that take any folders for classes.
_MASKS, _CLASSES = ("mask_folder", "voc"), ("image_folder", "identity_folder")

Opened = TypeVar("Opened")


def first_opened(
    tree: Tree, tasks: Collection[Task], attempt: Callable[[Kind, Folder, Task], Opened]
) -> Opened | None:
    """The first layout of a folder, or of the one folder in it that holds everything, of which
    `attempt` makes something, for the likeliest of the `tasks` that its labels can be used for;
    None where the folder has no layout for them.

    Raises DataError where a layout is recognised and `attempt` raises it for all.
    """
    folder, failure = tree.root, None
    for _ in range(_WRAPPERS):
        for kind in _possible(folder):
            task = next((task for task in kind.tasks if task in tasks), None)
            if task is None:
                continue
            try:
                return attempt(kind, folder, task)
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


def dataset_of(task: Task, data: Mapping[str, Any], transform: EvalTransform) -> Dataset:
    """The data set of a recipe's data section. Raises DataError and RecipeError."""
    section = dict(data)
    if task == "embedding":
        section["source"] = "identity_folder"
    document = {
        "name": "look",
        "task": task,
        "data": section,
        "transform": transform.model_dump(),
        "model": {"name": "resnet18"},
        "train": "none",
    }
    return load_source(parse_recipe(document))


# Names, and endings of files, that a message lists.
_NAMED = 5
_EXPECTED: dict[Task, str] = {
    "classification": "a folder of images for each class (at least two), or a table with their "
    "labels",
    "segmentation": "images/ with masks/, VOC's folders, COCO's or labelme's JSON",
    "embedding": "a folder of images for each person",
}


def unlabelled(tree: Tree, tasks: Collection[Task]) -> DataError:
    """The error for a folder that has no layout for the tasks."""
    top = tree.root
    leaves = [folder for folder in top.all() if not folder.folders and folder is not top]
    empty = [f"{x.path.relative_to(top.path)}/" for x in leaves if not x.image_count]
    without = f"; no image in {_listed(empty)}" if empty else ""
    images = top.images_below()
    if not images:
        others = sum((folder.endings for folder in top.all()), start=type(top.endings)())
        seen = ", ".join(f"{count} {ending}" for ending, count in others.most_common(_NAMED))
        got = f"; got {seen}" if seen else "" if empty else "; the folder is empty"
        return DataError(f"{top.path}: no images{got}{without}")
    with_images = [name for name, folder in top.folders.items() if folder.images_below()]
    if len(with_images) == 1 and not top.image_count:
        told = f"{images} images in one folder, {with_images[0]}/, are one class{without}"
    else:
        told = f"{images} images, and nothing that says the class of each"
    expected = [text for task, text in _EXPECTED.items() if task in tasks]
    return DataError(f"{top.path}: {told}; expected {', or '.join(expected)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
