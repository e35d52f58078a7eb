"""Images with their answers, in memory or decoded when they are asked for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.engines.measure import core_count
from serving.errors import InvalidInput
from serving.tensor import Array
from training.errors import DataError

Pixels = NDArray[np.uint8]
# Classification: int64 [N], the class. Segmentation: uint8 [N, H, W], the class of each pixel.
Targets = Array
Pair = tuple[Pixels, Targets]

# Decoded images of a folder are kept where they all fit into this.
MEMORY_LIMIT_BYTES = 1 << 30
_NAMED_FILES = 10


class Samples(Protocol):
    """One split: images of the evaluation transform's size with what is true of them."""

    @property
    def names(self) -> Sequence[str]:
        """What a report calls each image: a path below the data's root, or a number."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        """Images uint8 [n, H, W, 3], RGB, and their targets; both belong to the caller."""


class ArraySamples:
    """Images uint8 [N, H, W, 3] and targets that are already in memory."""

    def __init__(
        self, images: Pixels, targets: Targets, names: Sequence[str] | None = None
    ) -> None:
        self.images = images
        self.targets = targets
        self.names = names if names is not None else [str(i) for i in range(len(images))]

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        """See Samples.batch."""
        chosen = np.asarray(indices, dtype=np.intp)
        return self.images[chosen], self.targets[chosen]


class FileSamples:
    """Images that are read and decoded, several at a time, whenever they are asked for.

    `load` gives the pixels and the target of a file; decoding holds no Python lock.
    """

    def __init__(
        self, names: Sequence[str], files: Sequence[Path], load: Callable[[Path], Pair]
    ) -> None:
        self.names = names
        self._files = files
        self._load = load

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        """See Samples.batch. Raises DataError where a file has changed and cannot be decoded."""
        images, targets = [], []
        loaded = _load_all(self._load, (self._files[index] for index in indices))
        for index, pair in zip(indices, loaded, strict=True):
            if isinstance(pair, str):
                raise DataError(f"{self.names[index]}: {pair}")
            images.append(pair[0])
            targets.append(pair[1])
        return np.stack(images), np.stack(targets)


@dataclass(frozen=True)
class Dataset:
    """The three splits of a source, disjoint, and what their targets mean.

    `description` says in a line where the images come from and how they were split;
    `ignore_index` marks pixels that do not count.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples
    ignore_index: int | None = None


def read_splits(
    root: Path,
    splits: Mapping[str, Sequence[Path]],
    load: Callable[[Path], Pair],
    image_bytes: int,
) -> dict[str, Samples]:
    """Decodes every file of every split once, which finds the broken ones, and keeps the pixels
    where they all fit into memory.

    `load` gives the image and the target of a file, `image_bytes` is the size of both decoded.
    Raises DataError naming the broken files.
    """
    total = sum(map(len, splits.values()))
    keep = total * image_bytes <= MEMORY_LIMIT_BYTES
    read: dict[str, Samples] = {}
    broken: list[str] = []
    for split, files in splits.items():
        names = [file.relative_to(root).as_posix() for file in files]
        images, targets = [], []
        for name, loaded in zip(names, _load_all(load, files), strict=True):
            if isinstance(loaded, str):
                broken.append(f"{name}: {loaded}")
            elif keep:
                images.append(loaded[0])
                targets.append(loaded[1])
        if not keep:
            read[split] = FileSamples(names, files, load)
        elif images:
            read[split] = ArraySamples(np.stack(images), np.stack(targets), names)
    if broken:
        more = f"; and {len(broken) - _NAMED_FILES} more" if len(broken) > _NAMED_FILES else ""
        raise DataError(
            f"{root}: {len(broken)} of {total} files cannot be used: "
            + "; ".join(broken[:_NAMED_FILES])
            + more
        )
    return read


def _load_all(load: Callable[[Path], Pair], files: Iterable[Path]) -> list[Pair | str]:
    """The loaded pairs in order; in the place of one that failed, the reason."""

    def attempt(file: Path) -> Pair | str:
        try:
            return load(file)
        except (InvalidInput, DataError) as error:
            return str(error)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    with ThreadPoolExecutor(core_count()) as pool:
        return list(pool.map(attempt, files))
