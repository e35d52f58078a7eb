"""samples.npz: inputs, and the answers to them that were published with a version."""

import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from serving.base.errors import SelfCheckFailed
from serving.base.files import open_file
from serving.base.tensor import Array
from serving.repository.manifest import SAMPLES_FILE
from serving.repository.model_file import find_in_version

# Bytes of the images, and of the answers to them. Eight images of 1,000 x 1,000 pixels take 24 MB.
_MAX_BYTES = 256 << 20
# Bytes of the file's list of arrays, of which there are a handful.
_MAX_LIST = 1 << 16
# The end of a zip file: a signature, and at 12 the bytes of its list of members.
_END = 22


class Samples(NamedTuple):
    """A few inputs of a network, and FP32's answers to them.

    inputs, answers: arrays by tensor name; the first dimension of each is the sample.
    """

    inputs: dict[str, Array]
    answers: dict[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def read_samples(folder: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Samples | None:
    """The samples of a version, with these inputs and the answers in these outputs; None where none
    were published.

    Raises SelfCheckFailed where the file does not hold them, or more than they may take.
    """
    path = folder / SAMPLES_FILE
    try:
        with open_file(find_in_version(folder, SAMPLES_FILE)) as stream:
            check_list(stream)
            with zipfile.ZipFile(stream) as archive:
                given, answers = (
                    {name: _array(archive, name) for name in names} for names in (inputs, outputs)
                )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SelfCheckFailed(f"{path}: cannot be read: {error.strerror or error}") from error
    # What zipfile and numpy raise for damaged files is of many kinds.
    except Exception as error:
        raise SelfCheckFailed(f"{path}: cannot be read: {error}") from error
    shapes = {name: array.shape for name, array in (given | answers).items()}
    lengths = {shape[0] if shape else 0 for shape in shapes.values()}
    if len(lengths) != 1 or 0 in lengths:
        told = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise SelfCheckFailed(f"{path}: expected as many answers as inputs, got {told}")
    return Samples(given, answers)


def check_list(stream: BinaryIO) -> None:
    """Raises ValueError where a zip file has a long list of members, which zipfile reads whole."""
    size = os.fstat(stream.fileno()).st_size
    stream.seek(max(0, size - _END))
    end = stream.read(_END)
    if not end.startswith(b"PK\5\6") or int.from_bytes(end[12:16], "little") > _MAX_LIST:
        raise ValueError("is no archive of a few arrays, as numpy writes it")
    stream.seek(0)


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    """One array. Raises ValueError, and the errors of zipfile and numpy."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as stream:
        shape, fortran, dtype = read_header(stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "biuf" or fortran or size > _MAX_BYTES:
            raise ValueError(f"{name}: {dtype} {list(shape)}: expected numbers of 256 MiB at most")
        content = stream.read(size)
    return np.frombuffer(content, dtype).reshape(shape)


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran's order and type of an array in numpy's format. Raises ValueError, also for
    versions of the format that only records with names need."""
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"is of version {version} of numpy's format, expected 1.0 or 2.0")
    shape, fortran, dtype = readers[version](stream)
    return shape, fortran, dtype
