"""Images with labels: the source that reads a folder, and what it finds there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.base.task import TASKS, Task
from serving.repository.manifest import EvalTransform
from training.data.layout.kinds import Kind
from training.data.layout.opened import dataset_of, first_opened
from training.data.layout.walk import Folder, Tree
from training.data.samples import Dataset, files_alone
from training.errors import DataError
from training.pipeline.initial.found.facts import Counts, Labelled
from training.pipeline.initial.found.look import SEEN
from training.pipeline.initial.found.mask_values import named_masks

_SEEN = EvalTransform(resize=(SEEN, SEEN))


def find_labelled(tree: Tree, task: Task | None) -> Labelled | None:
    """The labelled images of a folder, or of the one folder in it that holds everything; None
    where there are none. `task` is the one that is wanted, where it is known.

    Raises DataError where a layout is recognised and no source can read it.
    """
    return first_opened(tree, (task,) if task else tuple(TASKS), opened)


def opened(kind: Kind, folder: Folder, task: Task) -> Labelled:
    """What the source finds that reads a layout. Raises DataError where it cannot."""
    data = dict(kind.data)
    if task == "embedding":
        data["source"] = "identity_folder"
    notes: tuple[str, ...] = ()
    try:
        found = _read(task, data)
    except DataError:
        if data["source"] != "mask_folder":
            raise
        named = named_masks(folder.path)
        if named is None:
            raise
        data |= named.data
        notes = named.notes
        found = _read(task, data)
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


def _read(task: Task, data: Mapping[str, Any]) -> Dataset:
    with files_alone():
        return dataset_of(task, data, _SEEN)


def _example(root: Path, found: Dataset) -> str:
    for samples in (found.test, found.train):
        if len(samples) and (root / samples.names[0]).is_file():
            return str(root / samples.names[0])
    return ""
