"""What was found in a folder, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.base.task import Task


@dataclass(frozen=True)
class Look:
    """A sample of the images.

    count: images that were looked at.
    height, width: medians, in pixels.
    one_size: all of them have the same size.
    grey: none of them has a colour.
    detail: side from which on more pixels show no more; at most the shorter side.
    mean, std: of the pixels over all images, 0 to 1; for R, G and B.
    seconds: to read and decode an image, as a network sees it.
    broken: images that cannot be decoded, with the reason.
    """

    count: int
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
class Labelled:
    """Images with labels.

    data: the section of a recipe that reads them.
    how: the layout in words.
    tasks: those that the labels can be used for; with more than one the first is the likely one.
    sure: the layout leaves no doubt about the task.
    classes: names, where they are known before the images are read.
    smallest: number of images of the smallest class; None where it is not known.
    splits: number of images by split; those that are missing will be cut from train.
    sample: some of the images, over all classes.
    notes: how the source was understood where its files left it open.
    """

    data: Mapping[str, Any]
    how: str
    tasks: tuple[Task, ...]
    sure: bool
    classes: tuple[str, ...]
    smallest: int | None
    splits: Mapping[str, int]
    sample: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Their number, over all splits."""
        return sum(self.splits.values())


@dataclass(frozen=True)
class Found:
    """All that a folder holds.

    labelled: images with labels, if there are any.
    onnx, exported: networks in files, .onnx and .pt2.
    weights: files of a state_dict.
    triton: models of a Triton repository, as REPOSITORY/MODEL.
    complete: everything was seen.
    notes: one line each on what was passed over.
    """

    root: Path
    labelled: Labelled | None
    onnx: tuple[Path, ...]
    exported: tuple[Path, ...]
    weights: tuple[Path, ...]
    triton: tuple[Path, ...]
    complete: bool
    notes: tuple[str, ...]
