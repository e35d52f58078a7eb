"""What was found in a folder, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.base.task import Task
from training.data.readers import Loaded
from training.data.samples import Samples


@dataclass(frozen=True)
class Counts:
    """Images of each split, as the build will have them."""

    train: int
    val: int
    test: int

    @property
    def all(self) -> int:
        return self.train + self.val + self.test


@dataclass(frozen=True)
class Labelled:
    """Images with labels.

    data: the section of a recipe that reads them.
    how: the layout in words.
    tasks: those that the labels can be used for; the likely one first.
    sure: the layout leaves no doubt about the task.
    classes: names; of embeddings the people in training.
    images: number of images by split.
    given: the splits that exist; the others are cut from train.
    samples: training images, decoded when they are asked for.
    example: an image file, to be asked about later; empty where images lie in tables.
    notes: how the source was understood, and oddities of its files.
    """

    data: Mapping[str, Any]
    how: str
    tasks: tuple[Task, ...]
    sure: bool
    classes: tuple[str, ...]
    images: Counts
    given: tuple[str, ...]
    samples: Samples
    example: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """A sample of the images.

    loaded: some of them, for trying networks.
    height, width: medians, in pixels.
    one_size: all of them have the same size.
    grey: none of them has a colour.
    detail: side from which on more pixels show no more; at most the shorter side.
    mean, std: of the pixels over all images, 0 to 1; for R, G and B.
    seconds: to read and decode an image, with all cores.
    broken: images that cannot be used, with the reason.
    """

    loaded: tuple[Loaded, ...]
    height: int
    width: int
    one_size: bool
    grey: bool
    detail: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seconds: float
    broken: Mapping[str, str]

    @property
    def side(self) -> int:
        """The median of the shorter side."""
        return min(self.height, self.width)


@dataclass(frozen=True)
class Found:
    """All that a folder holds.

    labelled: images with labels, if there are any.
    onnx, exported: networks in files, .onnx and .pt2.
    weights: files of a state_dict.
    triton: models of a Triton repository, as REPOSITORY/MODEL.
    notes: one line each on what was passed over.
    """

    root: Path
    labelled: Labelled | None
    onnx: tuple[Path, ...]
    exported: tuple[Path, ...]
    weights: tuple[Path, ...]
    triton: tuple[Path, ...]
    notes: tuple[str, ...]
