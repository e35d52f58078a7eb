"""The arrays of .npz and .npy files as inputs of a network.

A file's headers are read first: they tell its items, and the memory that its arrays would take.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from serving.base.files import open_file
from serving.base.tensor import Array, TensorSpec
from serving.repository.samples import check_list, read_header
from training.errors import DataError
from training.pipeline.adopt.served import ServedModel

# Bytes of a file's arrays, which are read together.
_FILE_BYTES = 1 << 30


def count_items(file: Path, model: ServedModel) -> int:
    """The items of a file, of which nothing but headers is read. Raises DataError."""
    return len(next(iter(_declared(file, model).values())))


def read_arrays(file: Path, model: ServedModel) -> dict[str, Array]:
    """The arrays of a file by input, with a first dimension of items. Raises DataError."""
    _declared(file, model)
    return _arrays(file, model, lambda stream: npy.read_array(stream, allow_pickle=False))


def as_input(file: Path, item: Array, spec: TensorSpec) -> Array:
    """An item of a file in the type of its input. Raises DataError."""
    cast = np.asarray(item, spec.dtype)
    if item.dtype.kind in "iu" and not np.array_equal(cast, item):
        raise DataError(f"{file}: {spec.name}: holds numbers beyond {spec.datatype}")
    return cast


def _declared(file: Path, model: ServedModel) -> dict[str, Array]:
    """Arrays without content, of the shapes and types that a file's headers tell; else as
    `read_arrays`. Raises DataError."""

    def header(stream: IO[bytes]) -> Array:
        shape, _, dtype = read_header(stream)
        return np.broadcast_to(np.zeros((), dtype), shape)

    arrays = _arrays(file, model, header)
    size = sum(array.nbytes for array in arrays.values())
    if size > _FILE_BYTES:
        raise DataError(
            f"{file}: its arrays take {size / 1e9:.1f} GB, at most {_FILE_BYTES / 1e9:.1f} GB of a "
            "file are read: cut it into several"
        )
    return arrays


def _arrays(file: Path, model: ServedModel, read: Callable[[IO[bytes]], Array]) -> dict[str, Array]:
    given: dict[str, Array] = {}
    try:
        with open_file(file) as stream:
            if file.suffix == ".npy":
                if len(model.inputs) != 1:
                    raise DataError(
                        f"{file}: an .npy file has no names, and the network has "
                        f"{len(model.inputs)} inputs; expected .npz"
                    )
                given[model.inputs[0].name] = read(stream)
            else:
                check_list(stream)
                with zipfile.ZipFile(stream) as archive:
                    held = [name.removesuffix(".npy") for name in archive.namelist()]
                    for spec in model.inputs:
                        if spec.name not in held:
                            raise DataError(f"{file}: no array {spec.name!r}; it has {held[:20]}")
                        with archive.open(f"{spec.name}.npy") as part:
                            given[spec.name] = read(part)
    except DataError:
        raise
    except Exception as error:  # what zipfile and numpy raise for damaged files is of many kinds
        raise DataError(f"{file}: cannot be read: {error}") from error
    arrays = {spec.name: _by_items(file, given[spec.name], spec, model) for spec in model.inputs}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or not all(array.size for array in arrays.values()):
        raise DataError(f"{file}: expected as many items for each input, got {counts}")
    return arrays


def _by_items(file: Path, array: Array, spec: TensorSpec, model: ServedModel) -> Array:
    """An array that becomes the input, with a first dimension of items."""
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise DataError(f"{file}: {spec.name}: expected {spec.datatype}, got {array.dtype}")
    one = spec.shape[1:] if model.batches else spec.shape
    alone = TensorSpec(spec.name, spec.datatype, one)
    if alone.fits(array.shape):
        return array[np.newaxis]
    if array.ndim and alone.fits(array.shape[1:]):
        return array
    raise DataError(
        f"{file}: {spec.name}: expected {list(one)}, or several of them along a first dimension, "
        f"got {list(array.shape)}"
    )
