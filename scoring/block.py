"""Scores blocks of images: reads the files, asks the scorer, makes the rows. The one way in which
images are scored, in this process and on the machines of a cluster."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

import pyarrow as pa

from scoring.errors import ImageFault, ScoringError
from scoring.rows import Answer, schema_of, table_of
from scoring.scorers.scorer import Scorer
from scoring.sources.item import MOST_IMAGE_BYTES, Item, Source
from scoring.sources.listing import Block

# Images of a block. Larger costs less a row, smaller loses less of a slow model's work where a job
# is killed.
BLOCK = 128
# Groups that are read while others are scored.
_AHEAD = 2
# Threads that read and write, at least.
_THREADS = 4
# Masks in a folder.
_MASKS = 1000


Result = TypeVar("Result")


class _Group(NamedTuple):
    """Images that are scored together. at: the place of the first in its block."""

    at: int
    items: Sequence[Item]


class BlockScorer:
    """Scores blocks one after the other, or several at a time: `with BlockScorer(...) as blocks`.

    masks: the folder for PNGs of masks; None where none are saved.
    """

    def __init__(self, scorer: Scorer, source: Source, masks: Path | None) -> None:
        identity = scorer.identity
        self.schema = schema_of(identity.task, identity.length, masks is not None)
        self._scorer = scorer
        self._source = source
        self._masks = masks
        self._readers = ThreadPoolExecutor(max(_THREADS, source.reads), "read")
        # Groups whose files are in memory.
        self._held = asyncio.Semaphore(scorer.seats + _AHEAD)
        self._seats = asyncio.Semaphore(scorer.seats)
        # Blocks that have images for every group that may be held, and one that ends meanwhile.
        self._at_once = 2 + (scorer.seats + _AHEAD) * scorer.rows // BLOCK

    def __enter__(self) -> "BlockScorer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._readers.shutdown(cancel_futures=True)

    async def tables(self, blocks: Iterable[Block]) -> AsyncGenerator[tuple[int, pa.Table]]:
        """The rows of each block, with the number of its first image; in the order of the blocks,
        some of which are scored at a time. Raises ScoringError."""
        window: deque[tuple[int, asyncio.Task[pa.Table]]] = deque()
        left = iter(blocks)
        try:
            while True:
                while len(window) < self._at_once and (block := next(left, None)) is not None:
                    window.append((block.start, asyncio.create_task(self.table(block))))
                if not window:
                    return
                start, task = window[0]
                rows = await task
                window.popleft()
                yield start, rows
        finally:
            tasks = [task for _, task in window]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def table(self, block: Block) -> pa.Table:
        """The rows of one block. Raises ScoringError."""
        groups = list(_groups(block.items, self._scorer.rows, self._scorer.most_bytes))
        answers: list[Answer | ImageFault] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(self._scored(block.start, group)) for group in groups]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        for task in asked:
            answers += task.result()
        return table_of(self.schema, block.items, answers)

    async def _scored(self, start: int, group: _Group) -> Sequence[Answer | ImageFault]:
        async with self._held:
            contents = await self._read(group.items)
            whole = [content for content in contents if isinstance(content, bytes)]
            found: Iterator[Answer | ImageFault] = iter(())
            if whole:
                async with self._seats:
                    found = iter(await self._scorer.score(whole))
            answers = [x if isinstance(x, ImageFault) else next(found) for x in contents]
            if self._masks is not None:
                first = start + group.at
                return await self._in_thread(_save_masks, self._masks, first, answers)
            return answers

    async def _read(self, items: Sequence[Item]) -> list[bytes | ImageFault]:
        """The files, in their order."""
        reads = min(len(items), self._source.reads)
        shares = [items[i::reads] for i in range(reads)]
        found = await asyncio.gather(
            *(self._in_thread(_read_all, self._source, share) for share in shares)
        )
        return [found[i % reads][i // reads] for i in range(len(items))]

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *arguments)


def _groups(items: Sequence[Item], rows: int, most_bytes: int) -> Iterator[_Group]:
    """Neighbours, at most `rows` of `most_bytes` together; a larger one is alone."""
    begin = size = 0
    for i, item in enumerate(items):
        taken = min(item.size, MOST_IMAGE_BYTES)
        if i > begin and (i - begin == rows or size + taken > most_bytes):
            yield _Group(begin, items[begin:i])
            begin, size = i, 0
        size += taken
    if begin < len(items):
        yield _Group(begin, items[begin:])


def _read_all(source: Source, items: Sequence[Item]) -> list[bytes | ImageFault]:
    return [_read_one(source, item) for item in items]


def _read_one(source: Source, item: Item) -> bytes | ImageFault:
    if item.size > MOST_IMAGE_BYTES:
        return ImageFault(f"{item.size:,} bytes, expected at most {MOST_IMAGE_BYTES:,}")
    try:
        return source.read(item, item.offset, item.offset + item.size)
    except ImageFault as fault:
        return fault


def _save_masks(
    folder: Path, first: int, answers: Sequence[Answer | ImageFault]
) -> list[Answer | ImageFault]:
    """Writes each mask into a file by the number of its image, since names of images may be any
    bytes, and replaces it by the path below the folder. Raises ScoringError."""
    saved: list[Answer | ImageFault] = []
    for number, answer in enumerate(answers, first):
        if isinstance(answer, ImageFault):
            saved.append(answer)
            continue
        place = Path(f"{number // _MASKS:06d}", f"{number:09d}.png")
        try:
            (folder / place.parent).mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(answer["mask"])
        except OSError as error:
            raise ScoringError(f"--masks {folder / place}: {error.strerror}") from error
        saved.append({**answer, "mask": str(place)})
    return saved
