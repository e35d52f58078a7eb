"""The same work over a Ray cluster, by Ray Data: an engine on each machine, and the rows here.

A row of the data set is a stretch of the listing, which stays on this machine; a worker asks for
its images, scores them block by block as one process does, and gives back their rows.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import uvloop

from scoring.block import BLOCK, BlockScorer
from scoring.errors import ScoringError
from scoring.facts import Identity
from scoring.run import Answering, Opener, Ranges
from scoring.scorers.opened import open_scorer
from scoring.scorers.scorer import Question
from scoring.sources.listing import Block, Listing
from scoring.sources.opened import open_source
from serving.base.storage.address import is_url
from serving.base.text import one_line

try:
    import ray
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise ScoringError(
        f"--ray: the package {error.name} is not installed; pip install 'convserve[ray]' brings it"
    ) from error

# Blocks of a stretch, at most: more cost Ray less an image, fewer are scored again where a machine
# is lost. And stretches of a small job for each worker, so that none waits for the last one.
_MOST_BLOCKS, _STRETCHES = 32, 8


@dataclass(frozen=True)
class _Work:
    """What a worker needs to open the model and the source."""

    question: Question
    source: str
    shards: bool
    masks: Path | None
    identity: Identity | None = None


def opened_on_ray(source: str, shards: bool, masks: Path | None, workers: int) -> Opener:
    """Opens models on the workers of the cluster that runs here, or at RAY_ADDRESS.

    workers: their number; 0 for one a GPU, or else one a machine.
    """

    @asynccontextmanager
    async def opened(question: Question) -> AsyncIterator[Answering]:
        _connect()
        try:
            share = _share(workers)
            places = tuple(
                x if is_url(x) else str(Path(x).resolve()) for x in question.repositories
            )
            own = replace(question, threads=share.cpus, repositories=places)
            work = _Work(own, source, shards, None if masks is None else masks.resolve())
            ask = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0)(_identity)
            identity = await _told(ask.remote(work))
            work = replace(
                work,
                question=replace(
                    work.question,
                    engine=identity.engine or question.engine,
                    variant=question.variant if question.servers else identity.variant,
                ),
                identity=identity,
            )
            yield Answering(identity, lambda listing, left: _tables(work, share, listing, left))
        finally:
            ray.shutdown()

    return opened


def _connect() -> None:
    """Raises ScoringError where no cluster runs. None is started: its ports would be open to
    everybody who reaches this machine."""
    try:
        ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise ScoringError(
            "--ray: no cluster runs here; `ray start --head` starts one, RAY_ADDRESS names another"
        ) from error


@dataclass(frozen=True)
class _Share:
    """The workers of a job, and the processors of each."""

    workers: int
    cpus: int
    gpus: int


def _share(workers: int) -> _Share:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = int(sum(resources.get("CPU", 0) for resources in machines))
    gpus = int(sum(resources.get("GPU", 0) for resources in machines))
    count = workers or gpus or len(machines)
    return _Share(count, max(1, cpus // count), min(1, gpus // count))


def _identity(work: _Work) -> Identity:
    async def ask() -> Identity:
        async with open_scorer(work.question) as scorer:
            return scorer.identity

    return asyncio.run(ask())


class _Pieces:
    """Hands out the images of the listing, on the machine where it lies."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing

    def blocks(self, start: int, stop: int) -> list[Block]:
        """The blocks of a stretch."""
        return list(self._listing.blocks([(start, stop)], BLOCK))


class _Worker:
    """Scores stretches; Ray Data makes one in each of its processes."""

    def __init__(self, work: _Work, pieces: Any) -> None:
        self._pieces = pieces
        self._loop = uvloop.new_event_loop()
        self._stack = AsyncExitStack()
        self._blocks = self._loop.run_until_complete(self._opened(work))

    async def _opened(self, work: _Work) -> BlockScorer:
        scorer = await self._stack.enter_async_context(open_scorer(work.question))
        if scorer.identity != work.identity:
            raise ScoringError(
                f"a machine of the cluster has {scorer.identity}, another {work.identity}"
            )
        source = open_source(work.source, work.shards)
        return self._stack.enter_context(BlockScorer(scorer, source, work.masks))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The rows of a stretch, as an Arrow stream."""
        blocks = ray.get(self._pieces.blocks.remote(row["start"], row["stop"]))
        table = self._loop.run_until_complete(self._scored(blocks))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return {"start": row["start"], "rows": sink.getvalue().to_pybytes()}

    async def _scored(self, blocks: list[Block]) -> pa.Table:
        return pa.concat_tables([table async for _, table in self._blocks.tables(blocks)])


async def _tables(
    work: _Work, share: _Share, listing: Listing, left: Ranges
) -> AsyncGenerator[tuple[int, pa.Table]]:
    """The rows of each stretch, as they come."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    placed: Any = ray.remote(_Pieces)
    pieces = placed.options(num_cpus=0, scheduling_strategy=here).remote(listing)
    ranges = list(left)
    blocks = sum(stop - start for start, stop in ranges) // BLOCK
    step = BLOCK * max(1, min(_MOST_BLOCKS, blocks // (share.workers * _STRETCHES)))
    stretches = [
        {"start": at, "stop": min(at + step, stop)}
        for start, stop in ranges
        for at in range(start, stop, step)
    ]
    if not stretches:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    worker: Any = _Worker  # Ray makes the objects
    scored = ray.data.from_items(stretches, override_num_blocks=len(stretches)).map(
        worker,
        fn_constructor_args=(work, pieces),
        compute=ray.data.ActorPoolStrategy(size=share.workers),
        num_cpus=share.cpus,
        num_gpus=share.gpus,
    )
    rows: Iterator[dict[str, Any]] = iter(scored.iter_rows())
    while True:
        row = await asyncio.to_thread(_next, rows)
        if row is None:
            return
        with pa.ipc.open_stream(row["rows"]) as stream:
            yield row["start"], stream.read_all()


def _next(rows: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return next(rows, None)
    except ray.exceptions.RayError as error:
        raise _reason(error) from error


async def _told(answer: Any) -> Any:
    try:
        return await answer
    except ray.exceptions.RayError as error:
        raise _reason(error) from error


def _reason(error: BaseException) -> ScoringError:
    """The fault that ended a worker's task, or Ray's own words."""
    found: BaseException | None = error
    while found is not None:
        # Ray's errors are of the class of their cause too, with its traceback as their text.
        if isinstance(found, ScoringError) and not isinstance(found, ray.exceptions.RayError):
            return found
        cause = getattr(found, "cause", None)
        found = cause if isinstance(cause, BaseException) else found.__cause__
    return ScoringError(f"--ray: {one_line(str(error))}")
