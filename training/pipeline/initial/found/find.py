"""All that a folder holds for a first recipe."""

from collections.abc import Iterator
from pathlib import Path

from serving.base.task import Task
from training.data.layout.walk import Folder, Tree
from training.pipeline.initial.found.facts import Found
from training.pipeline.initial.found.first_weights import ENDINGS
from training.pipeline.initial.found.labelled import find_labelled

# Files of each kind that are kept.
_KEPT = 20
_CONFIG = "config.pbtxt"


def find(tree: Tree, task: Task | None) -> Found:
    """Labelled images, networks in files, models of a repository. Raises DataError as
    find_labelled does."""
    models = tuple(_triton_models(tree.root))
    inside = tuple(f"{model}/" for model in map(str, models))
    files = [file for file in tree.root.files_below() if not str(file).startswith(inside)]
    onnx, exported = (_ending(files, ending) for ending in (".onnx", ".pt2"))
    notes = list(tree.notes)
    if not tree.complete:
        notes.append(
            f"{tree.root.path}: too much to look at all of it; its layout is told by the first "
            f"{tree.root.images_below():,} images that were seen"
        )
    return Found(
        root=tree.root.path,
        labelled=find_labelled(tree, task),
        onnx=onnx,
        exported=exported,
        weights=tuple(file for ending in ENDINGS for file in _ending(files, ending)),
        triton=models,
        notes=tuple(notes),
    )


def _ending(files: list[Path], ending: str) -> tuple[Path, ...]:
    return tuple(sorted(file for file in files if file.suffix.lower() == ending)[:_KEPT])


def _triton_models(top: Folder) -> Iterator[Path]:
    """The folders with a config.pbtxt and a version with an ONNX file."""
    for folder in (top, *top.folders.values()):
        versions = (inner for name, inner in folder.folders.items() if name.isdecimal())
        if _CONFIG in folder.files and any(
            file.endswith(".onnx") for version in versions for file in version.files
        ):
            yield folder.path
