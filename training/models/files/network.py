"""A network that came as a file, in the place of one that torch holds."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from serving.base.errors import EngineError
from serving.base.files import read_file
from serving.base.task import Task
from serving.base.tensor import Array
from training.data.readers import Pixels
from training.errors import ExportError
from training.models.export.variants import FP32_FILE
from training.models.files.answers import finished
from training.models.files.description import Description
from training.models.files.original import Original, open_original
from training.recipes.model import ModelChoice

DESCRIPTION_FILE = "interface.json"


@dataclass(frozen=True)
class FileNetwork:
    """The network of a recipe's file, after the train stage has taken it.

    folder: that of the stage: DESCRIPTION_FILE, and the deployed form of the file.
    choice: names the file itself, whose answers are those to keep.
    task, channels, size: of the recipe.
    """

    folder: Path
    choice: ModelChoice
    task: Task
    channels: int
    size: tuple[int, int]

    @property
    def file(self) -> Path:
        """The deployed form, FP32."""
        return self.folder / FP32_FILE

    @cached_property
    def description(self) -> Description:
        """The interface of the file, as the train stage found it."""
        return Description.model_validate_json(read_file(self.folder / DESCRIPTION_FILE))

    @cached_property
    def _original(self) -> Original:
        return open_original(self.choice)

    def answers(self, names: tuple[str, ...], images: Pixels) -> dict[str, Array]:
        """The answers of the file itself, by the names of the deployed outputs. Raises
        ExportError."""
        raw = raw_answers(self._original, self.description, images, len(images))
        found = finished(
            raw[self.description.answer.output],
            self.description,
            self.task,
            self.channels,
            self.size,
        )
        return {name: found[name] for name in names}


def raw_answers(
    original: Original, description: Description, images: Pixels, most: int
) -> dict[str, Array]:
    """All outputs of a file for N images, at most `most` at a time, or as many as it takes. Raises
    ExportError."""
    batch = description.batch or most
    parts = []
    for start in range(0, len(images), batch):
        rows = description.prepare(images[start : start + batch])
        # A file of four rows gets four; the last ones may be shown again.
        filled = np.resize(rows, (description.batch or len(rows), *rows.shape[1:]))
        try:
            found = original.infer({description.image.name: filled})
        except EngineError as error:
            raise ExportError(f"{description.image.name}: {error}") from error
        parts.append({name: values[: len(rows)] for name, values in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
