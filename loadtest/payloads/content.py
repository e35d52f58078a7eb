"""The content of requests: image files and tensors."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.errors import LoadTestError

Array = NDArray[Any]

# The same files as serving.base.folders takes, which the load tester cannot import.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp"})
_SYSTEM_ENTRIES = frozenset({
    "$recycle.bin", "#recycle", "@eadir", "@recycle", "__macosx", "__pycache__", "desktop.ini",
    "ehthumbs.db", "icon\r", "lost+found", "system volume information", "thumbs.db",
})  # fmt: skip
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
# Payloads of a model, and their bytes, at most. Every worker holds them all in memory: more give
# more variety, fewer take less memory.
MAX_PAYLOADS = 1024
MAX_PAYLOAD_BYTES = 256 << 20
# Distinct payloads where they are synthetic.
MADE_UP = 16
# Bytes of an input of one of them, which the server's metadata decides about; of a random text.
_MAX_RANDOM_BYTES = 64 << 20
_TEXT_BYTES = 60

# Open Inference Protocol name -> NumPy type; BYTES is an array of bytes objects.
DATATYPES: dict[str, type[Any]] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32,
    "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.object_,
}  # fmt: skip


@dataclass(frozen=True)
class Payload:
    """Content of one request.

    images: encoded images; empty for tensors.
    tensors: whole batches by input name.
    expected: the right label of each image; empty where it is not known.
    """

    images: tuple[bytes, ...] = ()
    tensors: Mapping[str, Array] = field(default_factory=dict)
    expected: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Number of images, or of rows of the tensors."""
        if self.images:
            return len(self.images)
        shapes = [tensor.shape for tensor in self.tensors.values()]
        return shapes[0][0] if shapes and shapes[0] else 1


@dataclass(frozen=True)
class TensorInput:
    """An input as the model's metadata declares it; -1 in the shape is chosen by the caller."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def image_folder(folder: Path, per_request: int, seed: int) -> list[Payload]:
    """The image files below a folder, as they are. Raises LoadTestError."""
    files = _sample(_image_files(folder), seed)
    return grouped([(_read(path), "") for path in files], per_request)


def labelled_folder(folder: Path, per_request: int, seed: int) -> list[Payload]:
    """The images of a folder with one folder a class, whose name is their label.

    Raises LoadTestError, also where the folders are splits of a data set.
    """
    files = [path for path in _image_files(folder) if path.parent != folder]
    if not files:
        raise LoadTestError(f"{folder}: no folders with images, one for each class")
    places = [path.relative_to(folder).parts for path in files]
    names = sorted({place[0] for place in places})
    if all(name.lower() in _SPLITS for name in names) and any(len(place) > 2 for place in places):
        raise LoadTestError(
            f"{folder}: expected a folder a class, got the splits {', '.join(names)}; "
            "give one of them"
        )
    labelled = [(_read(path), path.relative_to(folder).parts[0]) for path in _sample(files, seed)]
    return grouped(labelled, per_request)


def random_tensors(
    inputs: Sequence[TensorInput], shapes: Mapping[str, tuple[int, ...]], rows: int, seed: int
) -> list[Payload]:
    """Random tensors as the metadata declares them. Raises LoadTestError.

    shapes: sizes, without the batch dimension, of inputs whose metadata leaves some open.
    """
    if not inputs:
        raise LoadTestError("the model's metadata names no inputs: give --npy NAME=FILE")
    unknown = set(shapes) - {spec.name for spec in inputs}
    if unknown:
        names = ", ".join(spec.name for spec in inputs)
        raise LoadTestError(f"--shape: no input {sorted(unknown)[0]!r}; the model has {names}")
    random = np.random.default_rng(seed)
    concrete = [(spec, _concrete(spec, shapes, rows)) for spec in inputs]
    return [
        Payload(tensors={spec.name: _random(spec, shape, random) for spec, shape in concrete})
        for _ in range(MADE_UP)
    ]


def npy_tensors(
    files: Mapping[str, Path], inputs: Sequence[TensorInput], rows: int
) -> list[Payload]:
    """Requests of `rows` rows each from .npy files. Raises LoadTestError.

    files: by input name; "" stands for the only input.
    """
    names = {spec.name for spec in inputs}
    arrays: dict[str, Array] = {}
    for name, path in files.items():
        known = name or (inputs[0].name if len(inputs) == 1 else "")
        if not known or (names and known not in names):
            have = ", ".join(sorted(names)) or "no inputs in its metadata"
            raise LoadTestError(f"--npy {path}: give NAME={path}; the model has {have}")
        arrays[known] = _read_npy(path)
    missing = names - set(arrays)
    if missing:
        raise LoadTestError(f"--npy: input {sorted(missing)[0]!r} has no file")
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1 or min(lengths) < rows:
        raise LoadTestError(
            f"--npy: files hold {', '.join(map(str, sorted(lengths)))} rows; they must hold as "
            f"many as each other and at least the {rows} of one request"
        )
    starts = range(0, min(lengths.pop(), MAX_PAYLOADS * rows) - rows + 1, rows)
    return [
        Payload(tensors={name: array[i : i + rows] for name, array in arrays.items()})
        for i in starts
    ]


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise LoadTestError(f"{folder}: not a folder")
    files = sorted(p for p in folder.rglob("*") if _is_image(p.relative_to(folder)) and p.is_file())
    if not files:
        raise LoadTestError(f"{folder}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in it")
    return files


def _is_image(path: Path) -> bool:
    """Whether a path, relative to the folder, is an image by its suffix, and neither hidden
    (`.ipynb_checkpoints/`, `._x.jpg`) nor left by an operating system (`__MACOSX/`)."""
    if any(part.startswith(".") or part.lower() in _SYSTEM_ENTRIES for part in path.parts):
        return False
    return path.suffix.lower() in IMAGE_SUFFIXES


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror or error}") from error


def _sample(files: list[Path], seed: int) -> list[Path]:
    """A random part of the files, at most MAX_PAYLOADS and MAX_PAYLOAD_BYTES."""
    order = np.random.default_rng(seed).permutation(len(files))[:MAX_PAYLOADS]
    chosen = [files[i] for i in order]
    sizes = itertools.accumulate(path.stat().st_size for path in chosen)
    return [p for p, size in zip(chosen, sizes, strict=True) if size <= MAX_PAYLOAD_BYTES] or [
        chosen[0]
    ]


def grouped(images: Sequence[tuple[bytes, str]], per_request: int) -> list[Payload]:
    """Requests of `per_request` images each; the last one is filled up from the first images."""
    payloads = []
    for first in range(0, len(images), per_request):
        group = [images[i % len(images)] for i in range(first, first + per_request)]
        expected = tuple(label for _, label in group if label)
        payloads.append(Payload(images=tuple(content for content, _ in group), expected=expected))
    return payloads


def _concrete(
    spec: TensorInput, shapes: Mapping[str, tuple[int, ...]], rows: int
) -> tuple[int, ...]:
    batched = bool(spec.shape) and spec.shape[0] == -1
    shape = (rows, *spec.shape[1:]) if batched else spec.shape
    if spec.name in shapes:
        shape = (rows, *shapes[spec.name]) if batched else shapes[spec.name]
    declared = ",".join(map(str, spec.shape))
    if any(size < 0 for size in shape):
        raise LoadTestError(
            f"input {spec.name!r} is [{declared}]: give its open sizes by "
            f"--shape {spec.name}=SIZE,..."
        )
    size = math.prod(shape) * _random_width(spec)
    if size > _MAX_RANDOM_BYTES:
        raise LoadTestError(
            f"input {spec.name!r} is [{declared}]: a random one takes {size:,} bytes, expected at "
            f"most {_MAX_RANDOM_BYTES:,}: give --npy"
        )
    return shape


def _random_width(spec: TensorInput) -> int:
    """Bytes of an element in memory."""
    dtype = np.dtype(DATATYPES.get(spec.datatype, np.float64))
    return _TEXT_BYTES if dtype.hasobject else dtype.itemsize


def _random(spec: TensorInput, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if spec.datatype not in DATATYPES:
        raise LoadTestError(f"input {spec.name!r} is {spec.datatype}, which has no NumPy type")
    dtype = np.dtype(DATATYPES[spec.datatype])
    if dtype.kind == "O":
        words = [b"%016x" % value for value in random.integers(0, 1 << 62, math.prod(shape))]
        return np.array(words, dtype=object).reshape(shape)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if dtype.kind in "ui":
        return random.integers(0, min(np.iinfo(dtype).max, 255), shape, endpoint=True).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


def _read_npy(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise LoadTestError(f"{path}: not a .npy file ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise LoadTestError(f"{path}: expected a .npy file with rows")
    return array
