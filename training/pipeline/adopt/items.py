"""The data of --data: images, or tensors named as the inputs, item by item.

An item is one row of a batch or, where the model has no batch dimension, a whole call.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.base.folders import list_images, visible_files
from serving.base.task import Task
from serving.base.tensor import Array
from serving.images.preprocess import load_image
from serving.images.tensor import ToTensor
from serving.repository.manifest import EvalTransform
from training.data.layout.opened import dataset_of, first_opened
from training.data.layout.walk import walk
from training.data.readers import Loaded
from training.data.samples import ChosenSamples, Dataset, Samples, read_splits
from training.data.sources.image_folder import shown_name
from training.errors import DataError, data_errors
from training.pipeline.adopt.served import ServedModel
from training.pipeline.adopt.tensor_files import as_input, count_items, read_arrays

# Seed of every choice among the items.
_SEED = 0
# Share of the items on which ranges are measured; the others are compared. Labelled images that are
# cut into train/ and test/ already stay as they are.
_CALIBRATED = 0.5
# Share of labelled images that the cut of three splits wants for val, where nothing looks at it.
_UNUSED = 0.01
# Files whose arrays are kept: the one that is read, and the one before it.
_KEPT_FILES = 2
_MOST_ITEMS = 10_000_000

Inputs = Mapping[str, Array]


class Items(Protocol):
    """Inputs of a network."""

    def __len__(self) -> int: ...

    def item(self, index: int) -> Inputs:
        """The arrays of one item by input, without the batch where the model batches. Raises
        DataError."""


@dataclass(frozen=True)
class Data:
    """The items of a folder.

    description: a line on where they come from.
    fingerprint: changes when the files do.
    calibration, measured: disjoint.
    labelled: a data set whose test images are the measured ones, and train those of the
        calibration; None where nothing is labelled, and variants are compared with FP32.
    notes: how the folder was understood.
    """

    description: str
    fingerprint: str
    calibration: Items
    measured: Items
    labelled: Dataset | None = None
    notes: tuple[str, ...] = ()


def calls(items: Items, indices: Sequence[int], model: ServedModel, rows: int) -> Iterator[Inputs]:
    """Items as the network takes them: rows of equal shapes together, at most `rows`, or one call
    after another where the model has no batch. Raises DataError."""
    if not model.batches:
        for index in indices:
            yield items.item(index)
        return
    waiting: list[Inputs] = []
    for index in indices:
        item = items.item(index)
        if waiting and (len(waiting) == rows or shapes(item) != shapes(waiting[0])):
            yield stacked(waiting)
            waiting = []
        waiting.append(item)
    if waiting:
        yield stacked(waiting)


def stacked(items: Sequence[Inputs]) -> dict[str, Array]:
    """Items of equal shapes with a first dimension of their number."""
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def shapes(item: Inputs) -> dict[str, tuple[int, ...]]:
    """The shape of each array."""
    return {name: array.shape for name, array in item.items()}


@data_errors()
def read_tensors(folder: Path, model: ServedModel, most: int, calibrated: int) -> Data:
    """Tensors in .npz files with an array for each input or, of a network with one input, .npy
    files. An array holds one item, or several along its first dimension.

    most: items that are read, at random where there are more. calibrated: items for ranges.
    Raises DataError naming the file and the array.
    """
    files = [file for file in visible_files(folder) if file.suffix in (".npz", ".npy")]
    if not files:
        raise DataError(
            f"{folder}: no .npz or .npy files; expected an array for each input "
            f"({', '.join(spec.name for spec in model.inputs)}), or --preprocess for images"
        )
    places: list[tuple[Path, int]] = []
    for file in files:
        rows = count_items(file, model)
        if len(places) + rows > _MOST_ITEMS:
            raise DataError(f"{folder}: more than {_MOST_ITEMS:,} items; take a part of them")
        places += [(file, row) for row in range(rows)]
    chosen = _chosen(len(places), most)
    items = _TensorItems([places[i] for i in chosen], model)
    first, second = _halves(str(folder), len(chosen), calibrated)
    return Data(
        description=f"{folder.name}, {len(places)} items in {len(files)} files",
        fingerprint=_fingerprint(folder, files),
        calibration=_Part(items, first),
        measured=_Part(items, second),
    )


@data_errors()
def read_images(
    folder: Path,
    transform: EvalTransform,
    to_tensor: ToTensor,
    model: ServedModel,
    most: int,
    calibrated: int,
) -> Data:
    """The images below a folder, without labels. Raises DataError, also naming files that cannot be
    decoded."""
    listing = list_images(folder)
    if not listing.images:
        raise DataError(f"{folder}: no images below it")
    files = [listing.images[i] for i in _chosen(len(listing.images), most)]
    height, width = transform.size

    def load(file: Path) -> Loaded:
        image = load_image(file.read_bytes(), transform)
        return Loaded(image.pixels, np.asarray(0, np.int64), image.size)

    samples = read_splits(
        str(folder),
        {"all": files},
        lambda file: shown_name(file, folder),
        load,
        height * width * transform.channels,
    )["all"]
    first, second = _halves(str(folder), len(files), calibrated)
    return Data(
        description=f"{folder.name}, {len(listing.images)} images",
        fingerprint=_fingerprint(folder, listing.images),
        calibration=PictureItems(ChosenSamples(samples, first), to_tensor, model),
        measured=PictureItems(ChosenSamples(samples, second), to_tensor, model),
    )


def read_labelled(
    folder: Path,
    task: Task,
    transform: EvalTransform,
    to_tensor: ToTensor,
    model: ServedModel,
    most: int,
    calibrated: int,
) -> Data | None:
    """Labelled images: ranges are measured on train, variants are judged on test; a folder that is
    not cut into splits is cut in halves. Targets are in the data's own numbers. None where the
    folder has no labels for the task. Raises DataError.
    """
    cut = {"val_fraction": _UNUSED, "test_fraction": 1 - _CALIBRATED, "split_seed": _SEED}
    dataset = first_opened(
        walk(folder),
        (task,),
        lambda kind, _, task: dataset_of(task, {**kind.data, **cut}, transform),
    )
    if dataset is None:
        return None
    dataset = replace(
        dataset,
        train=ChosenSamples(dataset.train, _chosen(len(dataset.train), calibrated)),
        test=ChosenSamples(dataset.test, _chosen(len(dataset.test), most)),
    )
    return Data(
        description=dataset.description,
        fingerprint=_fingerprint(folder, visible_files(folder)),
        calibration=PictureItems(dataset.train, to_tensor, model),
        measured=PictureItems(dataset.test, to_tensor, model),
        labelled=dataset,
        notes=dataset.notes,
    )


class PictureItems:
    """Images as the tensors of a network."""

    def __init__(self, samples: Samples, to_tensor: ToTensor, model: ServedModel) -> None:
        self._samples = samples
        self._to_tensor = to_tensor
        self._convert = to_tensor.of_item if model.batches else to_tensor

    def __len__(self) -> int:
        return len(self._samples)

    def item(self, index: int) -> Inputs:
        """The tensor of one image. Raises DataError where it cannot be decoded."""
        images, _ = self._samples.batch([index])
        return {self._to_tensor.name: self._convert(images[0])}


class _TensorItems:
    def __init__(self, places: Sequence[tuple[Path, int]], model: ServedModel) -> None:
        self._places = places
        self._model = model
        self._arrays = lru_cache(maxsize=_KEPT_FILES)(lambda file: read_arrays(file, model))

    def __len__(self) -> int:
        return len(self._places)

    def item(self, index: int) -> Inputs:
        file, row = self._places[index]
        arrays = self._arrays(file)
        return {
            spec.name: as_input(file, arrays[spec.name][row], spec) for spec in self._model.inputs
        }


@dataclass(frozen=True)
class _Part:
    items: Items
    indices: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> Inputs:
        return self.items.item(int(self.indices[index]))


def _chosen(count: int, most: int) -> NDArray[np.intp]:
    """At most `most` of so many, ascending."""
    return np.sort(np.random.default_rng(_SEED).permutation(count)[:most])


def _halves(where: str, count: int, calibrated: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    if count < 2:
        raise DataError(
            f"{where}: {count} items: expected two at least, one to measure ranges on and another "
            "to compare answers with"
        )
    order = np.random.default_rng(_SEED + 1).permutation(count)
    cut = max(1, min(calibrated, int(count * _CALIBRATED)))
    return np.sort(order[:cut]), np.sort(order[cut:])


def _fingerprint(folder: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        name = shown_name(file, folder)
        digest.update(f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
