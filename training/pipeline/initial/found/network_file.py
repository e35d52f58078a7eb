"""A network that comes as a file: the images that it takes, and the time of an answer."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.base.errors import EngineError
from serving.base.tensor import TensorSpec
from serving.repository.interface import GivenInput
from training.errors import DataError
from training.models.files.description import chosen_input
from training.models.files.original import open_original
from training.recipes.model import ModelChoice

ENDINGS = {".onnx": "onnx", ".pt2": "exported"}
"""The key of a recipe's model section by the ending of the file."""

# The side of an image for a file that takes any; ImageNet's.
_USUAL = 224
# Runs of which the fastest counts.
_RUNS = 3


@dataclass(frozen=True)
class NetworkFile:
    """A file of a network.

    path: of the file.
    size: (height, width) of the images that it takes; None: any.
    channels: of an image.
    seconds: of an answer, one image a run.
    """

    path: Path
    size: tuple[int, int] | None
    channels: int
    seconds: float


def network_file(path: Path) -> NetworkFile:
    """Looks into a file. A program of torch.export may run code of its author when it is read.

    Raises ExportError where it is damaged or takes something else than images, and DataError where
    it fails on an image of its own size.
    """
    choice = ModelChoice.model_validate({ENDINGS[path.suffix.lower()]: str(path)})
    original = open_original(choice)
    try:
        spec = chosen_input(GivenInput(), original.inputs, str(path))
        channels, size = _image(spec)
        shape = tuple(
            side if side > 0 else (_USUAL if axis and side not in (1, 3) else 1)
            for axis, side in enumerate(spec.shape)
        )
        blank = np.zeros(shape, spec.dtype)
        taken = []
        for _ in range(_RUNS):
            started = time.monotonic()
            original.infer({spec.name: blank})
            taken.append(time.monotonic() - started)
    except EngineError as error:
        raise DataError(f"{path}: fails on an image of {shape}: {error}") from error
    finally:
        original.close()
    return NetworkFile(path, size, channels, min(taken) / max(1, shape[0]))


def _image(spec: TensorSpec) -> tuple[int, tuple[int, int] | None]:
    """The channels and the size of the images of a four-dimensional input."""
    _, first, _, last = spec.shape
    plain = last in (1, 3) and first not in (1, 3)
    channels = last if plain else first
    height, width = spec.shape[1:3] if plain else spec.shape[2:4]
    size = (height, width) if height > 0 and width > 0 else None
    return channels if channels in (1, 3) else 3, size
