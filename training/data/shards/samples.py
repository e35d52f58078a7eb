"""The images of shards: any of them by its number, or all of them in a stream."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from serving.base.errors import InvalidInput
from serving.base.machine.cpu import core_count
from serving.base.storage.store import RANGE_BYTES
from training.data.readers import Loaded, Original, Reader
from training.data.samples import Pair
from training.data.shards.tables import Rows, Table, Tables, shard_name
from training.data.shards.tar import BLOCK, checked_size
from training.data.storage.store import Store
from training.errors import DataError

log = logging.getLogger(__name__)

# Requests under way at once: for images one by one, and ahead of a stream. More hide a longer way
# to the store, and take RANGE_BYTES of memory each.
_RANDOM_REQUESTS = 16
_STREAM_REQUESTS = 4
# Memory of the requests under way.
STREAM_BYTES = (_STREAM_REQUESTS + 1) * RANGE_BYTES
# Bytes between two images up to which one request reads both: about as many as arrive in the time
# of one more request. Images that are asked for by number may lie far apart in a shard of small
# ones, and would otherwise be read with all between them.
_STREAM_GAP, _RANDOM_GAP = 1 << 20, 32 << 10
# Files that are held at once where all are wanted as they are. More make fewer requests, and take
# more memory.
_AT_ONCE = 64
# Share of the images that may be skipped, and a number that always may.
SKIPPED_SHARE, SKIPPED_ALWAYS = 0.01, 10
_NAMED_SKIPPED = 10


@dataclass(frozen=True)
class Part:
    """The samples of a split in one shard.

    images: their number; indexed: that of all samples in the shard where its set has an index.
    cut: None for all samples. Else those at these places, as shares of the shard, of a permutation
        drawn from `cut_seed`.
    """

    address: str
    images: int
    indexed: int | None = None
    cut: tuple[int, int] | None = None
    cut_seed: tuple[int, int] = (0, 0)

    def rows(self, table: Table) -> Rows:
        return table.rows if self.cut is None else table.rows[self.numbers(len(table.rows))]

    def numbers(self, count: int) -> NDArray[np.intp]:
        """The samples' places among the `count` of the shard, ascending."""
        if self.cut is None:
            return np.arange(count)
        order = np.random.default_rng(self.cut_seed).permutation(count)
        return np.sort(order[slice(*self.cut)])


class Encoded(NamedTuple):
    """A sample as its shard holds it. target: a mask's file, or the class."""

    image: bytes
    target: bytes | int


@dataclass
class Skipped:
    """Images of a split that were skipped: their numbers, and the most that may be."""

    most: int
    numbers: set[int] = field(default_factory=set)

    def add(self, number: int, reason: str) -> None:
        if number in self.numbers:
            return
        self.numbers.add(number)
        if len(self.numbers) > self.most:
            raise DataError(
                f"{len(self.numbers):,} images cannot be used, more than data.on_error: skip "
                f"bears ({self.most:,}); the last: {reason}"
            )
        if len(self.numbers) <= _NAMED_SKIPPED:
            log.warning("data: skipped (%d): %s", len(self.numbers), reason)


class ShardSamples:
    """A split in shards, as every Samples, and as a stream.

    label_of: gives the class of a label as tables have it; raises DataError.
    decode: gives an encoded sample's pixels and target.
    class_counts: images of each class, int64 [classes]; None with masks.
    skipped: given, images that cannot be used are replaced in their batch by another image of it.
    window: images among which a stream draws its next; held_bytes: about the memory of a stream.
    """

    def __init__(
        self,
        store: Store,
        tables: Tables,
        parts: Sequence[Part],
        label_of: Callable[[str], int],
        decode: Reader[Encoded],
        window: int,
        held_bytes: int,
        class_counts: NDArray[np.int64] | None,
        skip: bool,
    ) -> None:
        self._store = store
        self._tables = tables
        self._parts = list(parts)
        self._label_of = label_of
        self._decode = decode
        self.window = window
        self.held_bytes = held_bytes
        self.class_counts = class_counts
        self._starts = np.cumsum([0, *(part.images for part in parts)])
        most = max(SKIPPED_ALWAYS, int(len(self) * SKIPPED_SHARE))
        self.skipped = Skipped(most) if skip else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def names(self) -> Sequence[str]:
        return _Names(self)

    @property
    def groups(self) -> Sequence[range]:
        """The numbers of the images of each shard."""
        return [range(*pair) for pair in zip(self._starts, self._starts[1:], strict=False)]

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        """Images and targets, as every Samples. Raises DataError naming shard and key."""
        wanted = [int(index) for index in indices]
        return self._stacked(wanted, self.read(wanted))

    def read(self, indices: Sequence[int]) -> Sequence[Loaded | str]:
        encoded = self._encoded(indices)
        with ThreadPoolExecutor(core_count()) as pool:
            loaded = dict(zip(encoded, pool.map(self._attempt, encoded.values()), strict=True))
        return [loaded[index] for index in indices]

    def originals(self) -> Iterator[tuple[str, Original]]:
        """Every image by its name. Raises DataError naming shard and key."""
        for start in range(0, len(self), _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, len(self)))
            for number, encoded in sorted(self._encoded(numbers).items()):
                name = self.name(number)
                if isinstance(encoded, str):
                    raise DataError(f"{name}: {encoded}")
                try:
                    yield name, self._decode.original(encoded)
                except (InvalidInput, DataError) as error:
                    raise DataError(f"{name}: {error}") from error

    def stream(self, reads: Iterable[int], batches: Iterable[Sequence[int]]) -> Iterator[Pair]:
        """The batches in their order, from images that are read in the order of `reads`, which
        holds the same numbers. At most as many encoded images are held as the two orders differ,
        and _STREAM_REQUESTS requests more."""
        spans = self._spans(reads, _STREAM_GAP)
        under_way: deque[Future[list[tuple[int, Encoded | str]]]] = deque()
        held: dict[int, Encoded | str] = {}
        with (
            ThreadPoolExecutor(_STREAM_REQUESTS) as requests,
            ThreadPoolExecutor(core_count()) as decoders,
        ):
            try:
                for batch in batches:
                    for index in batch:
                        while index not in held:
                            for span in spans:
                                under_way.append(requests.submit(self._fetched, span))
                                if len(under_way) > _STREAM_REQUESTS:
                                    break
                            held |= under_way.popleft().result()
                    encoded = [held.pop(index) for index in batch]
                    yield self._stacked(batch, list(decoders.map(self._attempt, encoded)))
            finally:
                for future in under_way:
                    future.cancel()
        if self.skipped is not None and self.skipped.numbers:
            log.warning("data: %d of %d images skipped", len(self.skipped.numbers), len(self))

    def _encoded(self, indices: Sequence[int]) -> dict[int, Encoded | str]:
        """The samples of some numbers, in no order."""
        spans = list(self._spans(sorted(set(indices)), _RANDOM_GAP))
        with ThreadPoolExecutor(_RANDOM_REQUESTS) as pool:
            return {i: one for part in pool.map(self._fetched, spans) for i, one in part}

    def name(self, index: int) -> str:
        """train-000000.tar/KEY."""
        address, key = self._shard_and_key(index)
        return f"{shard_name(address)}/{key}"

    def _shard_and_key(self, index: int) -> tuple[str, str]:
        """The address of an image's shard, and its key there."""
        part, number = self._place(index)
        table = self._tables.of(part.address, part.indexed)
        return part.address, table.keys[int(part.numbers(len(table.rows))[number])]

    def _place(self, index: int) -> tuple[Part, int]:
        """The shard of an image, and its place in it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[number], index - int(self._starts[number])

    def _stacked(self, indices: Sequence[int], loaded: Sequence[Loaded | str]) -> Pair:
        good = [one for one in loaded if not isinstance(one, str)]
        for index, one in zip(indices, loaded, strict=True):
            if isinstance(one, str):
                reason = ": ".join((*self._shard_and_key(index), one))
                if self.skipped is None:
                    raise DataError(reason)
                self.skipped.add(index, reason)
        if not good:
            raise DataError(f"no image of a batch can be used, as {reason}")
        stand_ins = iter(good * len(loaded))
        whole = [next(stand_ins) if isinstance(one, str) else one for one in loaded]
        return np.stack([x.image for x in whole]), np.stack([x.target for x in whole])

    def _attempt(self, encoded: Encoded | str) -> Loaded | str:
        if isinstance(encoded, str):
            return encoded
        try:
            return self._decode(encoded)
        except (InvalidInput, DataError) as error:
            return str(error)

    def _spans(self, indices: Iterable[int], gap: int) -> Iterator["_Span"]:
        """Neighbouring images of ascending places in a shard together, up to RANGE_BYTES."""
        span: _Span | None = None
        first = last = 0
        for index in indices:
            if not first <= index < last:
                part, number = self._place(index)
                first, last = index - number, index - number + part.images
                table = self._tables.of(part.address, part.indexed)
                rows = part.rows(table)
            row = rows[index - first]
            files = [(int(row["image"]), int(row["image_size"]))]
            if row["mask"]:
                files.append((int(row["mask"]), int(row["mask_size"])))
            start = min(offset for offset, _ in files) - BLOCK
            end = max(offset + size for offset, size in files)
            item = _Item(index, files, self._label(table.labels, int(row["label"])))
            if (
                span is None
                or span.address != part.address
                or not span.end <= start <= span.end + gap
                or end - span.start > RANGE_BYTES
            ):
                if span is not None:
                    yield span
                span = _Span(part.address, start, end, [item])
            else:
                span = span._replace(end=end)
                span.items.append(item)
        if span is not None:
            yield span

    def _fetched(self, span: "_Span") -> list[tuple[int, Encoded | str]]:
        """The samples of a span; a text for one whose place holds something else."""
        data = memoryview(self._store.read(span.address, span.start, span.end))
        found: list[tuple[int, Encoded | str]] = []
        for item in span.items:
            files = []
            for offset, size in item.files:
                at = offset - span.start
                if checked_size(bytes(data[at - BLOCK : at])) == size:
                    files.append(bytes(data[at : at + size]))
            target = files[1] if len(files) > 1 else item.label
            if len(files) < len(item.files):
                found.append((item.number, "the shard is damaged, or has changed since its index"))
            elif isinstance(target, str):
                found.append((item.number, target))
            else:
                found.append((item.number, Encoded(files[0], target)))
        return found

    def _label(self, labels: Sequence[str], number: int) -> int | str:
        """The class of a label; the reason where it is none. -1 with masks."""
        if number < 0:
            return -1
        try:
            return self._label_of(labels[number])
        except DataError as error:
            return str(error)


class _Item(NamedTuple):
    """A sample of a span.

    files: offset and size of its image and, if it has one, its mask.
    label: its class, or the reason why it has none.
    """

    number: int
    files: list[tuple[int, int]]
    label: int | str


class _Span(NamedTuple):
    """A stretch of a shard that one request reads, and its samples."""

    address: str
    start: int
    end: int
    items: list[_Item]


class _Names(Sequence[str]):
    """The names of a split, which are looked up when they are asked for."""

    def __init__(self, samples: ShardSamples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._samples.name(i) for i in range(len(self))[index]]
        return self._samples.name(int(index))
