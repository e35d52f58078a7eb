"""Images with their answers, in memory or decoded when they are asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from serving.base.errors import InvalidInput
from serving.base.machine.cpu import core_count
from training.data.readers import Loaded, Pixels, Targets
from training.data.remarks import Remarks
from training.errors import BrokenFiles, DataError

Pair = tuple[Pixels, Targets]

# Sources whose decoded images need more than this are decoded anew for each batch. More saves
# decoding, less saves memory; every process of a distributed training keeps its own copy.
MEMORY_LIMIT_BYTES = 1 << 30
# Images that a thread takes at a time. More spread the cost of handing work to a thread, which is
# as long as decoding a small JPEG; fewer share the images more evenly.
_BLOCK = 32
# Images that are loaded first, by one thread, and their median time in seconds below which it goes
# on alone: threads would wait for the GIL longer than they save. ResNet-20 in BF16 keeps 3 points
# more of its speed beside JPEGs of 32x32, which take 35 microseconds each.
_PROBED = 4
_QUICK_SECONDS = 100e-6
# Mean time of a block of images at which it does not any more: the first ones were not like the
# others. Much smaller, and other work on the machine would tell so of small images.
_SLOW_SECONDS = 10 * _QUICK_SECONDS

# Images of a set larger than memory that are looked at before training. More find rarer faults,
# and take longer; each is a request to a store.
SAMPLED_IMAGES = 2_000

Item = TypeVar("Item")

# Whether sources read no image while they are loaded.
_files_alone: ContextVar[bool] = ContextVar("files_alone", default=False)


class Samples(Protocol):
    """One split: images of the evaluation transform's size with their targets."""

    @property
    def names(self) -> Sequence[str]:
        """The name of each image in reports: a path below the data's root, or a number."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        """Images uint8 [n, H, W, C], RGB, and their targets; both belong to the caller."""

    def read(self, indices: Sequence[int]) -> Sequence[Loaded | str]:
        """The images one by one; a text with the reason in the place of an unusable one."""


@runtime_checkable
class StreamedSamples(Samples, Protocol):
    """Samples that are read in order far faster than one by one.

    groups: the numbers of the images that lie together, such as those of a shard.
    window: images among which a shuffled stream draws its next.
    class_counts: images of each class, int64 [classes]; None where nobody counted.
    held_bytes: memory that a stream of training images takes, about.
    """

    @property
    def held_bytes(self) -> int: ...

    @property
    def groups(self) -> Sequence[range]: ...

    @property
    def window(self) -> int: ...

    @property
    def class_counts(self) -> NDArray[np.int64] | None: ...

    def stream(self, reads: Iterable[int], batches: Iterable[Sequence[int]]) -> Iterator[Pair]:
        """The batches of numbers in their order; `reads` holds the same numbers in the order in
        which they are read."""


class ArraySamples:
    """Images uint8 [N, H, W, C] and targets that are already in memory.

    `sizes` holds heights and widths [N, 2] as they were before the evaluation transform.
    """

    def __init__(
        self,
        images: Pixels,
        targets: Targets,
        names: Sequence[str] | None = None,
        sizes: NDArray[np.int64] | None = None,
    ) -> None:
        self.images = images
        self.targets = targets
        self.names = names if names is not None else [str(i) for i in range(len(images))]
        self.sizes = sizes if sizes is not None else np.full((len(images), 2), images.shape[1:3])

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        chosen = np.asarray(indices, dtype=np.intp)
        return self.images[chosen], self.targets[chosen]

    def read(self, indices: Sequence[int]) -> Sequence[Loaded | str]:
        return [
            Loaded(self.images[i], self.targets[i], (int(self.sizes[i, 0]), int(self.sizes[i, 1])))
            for i in indices
        ]


class FileSamples:
    """Images that a thread pool reads and decodes whenever a batch asks for them.

    load: gives an item's pixels and target; it runs in threads, as decoding releases the GIL.
    threads: more than there are cores where items come over a network; by default as many as there
        are cores, or one for small images.
    class_counts: images of each class, int64 [classes], where the source counted them.
    """

    class_counts: NDArray[np.int64] | None = None

    def __init__(
        self,
        names: Sequence[str],
        items: Sequence[Item],
        load: Callable[[Item], Loaded],
        threads: int | None = None,
    ) -> None:
        self.names = names
        self.items: Sequence[Any] = items
        self.load: Callable[[Any], Loaded] = load
        self._loading: _Loading[Any] = _Loading(load, threads)

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        """Images and targets, as every Samples. Raises DataError where a file cannot be decoded."""
        images, targets = [], []
        for index, loaded in zip(indices, self.read([int(i) for i in indices]), strict=True):
            if isinstance(loaded, str):
                raise DataError(f"{self.names[index]}: {loaded}")
            images.append(loaded.image)
            targets.append(loaded.target)
        return np.stack(images), np.stack(targets)

    def read(self, indices: Sequence[int]) -> Sequence[Loaded | str]:
        # At least as many blocks as threads, so that one batch keeps all threads busy.
        block = min(max(1, -(-len(indices) // self._loading.most_threads)), _BLOCK)
        return list(self._loading.all([self.items[i] for i in indices], block))


class ChosenSamples:
    """Some images of a split: `rows` are their indices in it. Holds none of them itself."""

    def __init__(self, samples: Samples, rows: NDArray[np.intp]) -> None:
        self.names = [samples.names[row] for row in rows]
        self._samples = samples
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        """Images uint8 [n, H, W, C] and their targets. Raises what the split raises."""
        return self._samples.batch(self._rows[np.asarray(indices, dtype=np.intp)])

    def read(self, indices: Sequence[int]) -> Sequence[Loaded | str]:
        """The images one by one; in the place of one that cannot be used, the reason."""
        return self._samples.read(self._rows[np.asarray(indices, dtype=np.intp)].tolist())


@dataclass(frozen=True)
class Dataset:
    """The three splits of a source, disjoint, and the meaning of their targets.

    description: a line on where the images come from and how they were split.
    ignore_index: value of mask pixels that do not count.
    open_set: val and test show other classes than train; their targets are numbers past those of
        `classes`.
    left_out: number of files of the source that are not used, by ending or place.
    notes: how the source was understood where its files left it open.
    remarks: oddities of files, which are known as far as these were read.
    looked_at: images of all splits that are looked at before training; None for all.
    skips: splits of which images that cannot be used are skipped.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples
    ignore_index: int | None = None
    open_set: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    remarks: Remarks = field(default_factory=Remarks)
    looked_at: int | None = None
    skips: tuple[str, ...] = ()


def read_splits(
    source: str,
    splits: Mapping[str, Sequence[Item]],
    name_of: Callable[[Item], str],
    load: Callable[[Item], Loaded],
    image_bytes: int,
    threads: int | None = None,
) -> dict[str, Samples]:
    """The splits of a source: in memory where all of them fit, else decoded for each batch.

    load: gives the image and the target of an item.
    image_bytes: the size of both, decoded.
    threads: see FileSamples.
    Raises BrokenFiles naming the files that cannot be decoded into memory.
    """
    names = {split: [name_of(item) for item in items] for split, items in splits.items()}
    total = sum(map(len, splits.values()))
    if total * image_bytes > MEMORY_LIMIT_BYTES or _files_alone.get():
        return {
            split: FileSamples(names[split], items, load, threads)
            for split, items in splits.items()
        }
    read: dict[str, Samples] = {}
    broken: dict[str, str] = {}
    for split, items in splits.items():
        # Arrays are filled image by image: stacking a list would need the memory twice.
        images: Pixels | None = None
        sizes = np.zeros((len(items), 2), np.int64)
        targets: Targets = np.zeros(0)
        block = _BLOCK if threads is None else 1
        for index, loaded in enumerate(_Loading(load, threads).all(items, block)):
            if isinstance(loaded, str):
                broken[names[split][index]] = loaded
                continue
            if images is None:
                images = np.empty((len(items), *loaded.image.shape), np.uint8)
                targets = np.empty((len(items), *loaded.target.shape), loaded.target.dtype)
            images[index], targets[index], sizes[index] = loaded
        if images is not None:
            read[split] = ArraySamples(images, targets, names[split], sizes)
    if broken:
        raise BrokenFiles(source, total, broken)
    return read


@contextmanager
def files_alone() -> Iterator[None]:
    """Sources that are loaded in the block read no image: read_splits gives FileSamples, whose
    `items` are the source's files."""
    token = _files_alone.set(True)
    try:
        yield
    finally:
        _files_alone.reset(token)


class _Loading(Generic[Item]):
    """Loads items in threads: by default in one for each core, or without any where an item takes
    less time than a thread's waiting for the GIL.

    most_threads: that will be taken.
    """

    def __init__(self, load: Callable[[Item], Loaded], threads: int | None) -> None:
        self.most_threads = threads or core_count()
        self._load = load
        # None until the first items have shown how long they take.
        self._threads = threads
        self._probes: list[float] = []

    def all(self, items: Sequence[Item], block: int) -> Iterator[Loaded | str]:
        """The loaded items in order, decoded a few blocks ahead of the reader; the reason in the
        place of an item that failed."""
        done = 0
        while self._threads is None and done < len(items):
            began = perf_counter()
            loaded = _attempt(self._load, items[done])
            self._probes.append(perf_counter() - began)
            if len(self._probes) == _PROBED:
                is_quick = median(self._probes) < _QUICK_SECONDS
                self._threads = 1 if is_quick else self.most_threads
            done += 1
            yield loaded
        while self._threads == 1 and done < len(items):
            began = perf_counter()
            some = [_attempt(self._load, item) for item in items[done : done + _BLOCK]]
            if (perf_counter() - began) / len(some) > _SLOW_SECONDS:
                self._threads = self.most_threads
            done += len(some)
            yield from some
        if done == len(items):
            return

        def attempt(first: int) -> list[Loaded | str]:
            return [_attempt(self._load, item) for item in items[first : first + block]]

        starts = range(done, len(items), block)
        with ThreadPoolExecutor(self.most_threads) as pool:
            # Executor.map submits all of its items, so that it gets a few blocks at a time.
            for group in range(0, len(starts), 8 * self.most_threads):
                for some in pool.map(attempt, starts[group : group + 8 * self.most_threads]):
                    yield from some


def _attempt(load: Callable[[Item], Loaded], item: Item) -> Loaded | str:
    try:
        return load(item)
    except (InvalidInput, DataError) as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
