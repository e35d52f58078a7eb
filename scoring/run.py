"""A job from its start to its end, whoever answers."""

import asyncio
import math
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import uvloop

from scoring.block import BLOCK, BlockScorer
from scoring.errors import ScoringError
from scoring.facts import Facts, Identity
from scoring.job import Job, Rows, failed_before, gaps, with_facts
from scoring.rows import schema_of
from scoring.scorers.opened import open_scorer
from scoring.scorers.scorer import Question
from scoring.sources.item import Source, text_of
from scoring.sources.listing import Listing
from serving.base.errors import quoted
from serving.base.machine.progress import Progress
from serving.base.storage.address import is_url

Ranges = Iterable[tuple[int, int]]


class Answering(NamedTuple):
    """A model that is open.

    tables: the rows of the images in ranges of a listing, as blocks with the number of their first
        image, in any order.
    """

    identity: Identity
    tables: Callable[[Listing, Ranges], AsyncGenerator[tuple[int, pa.Table]]]


# Opens a model.
Opener = Callable[[Question], AbstractAsyncContextManager[Answering]]


@dataclass(frozen=True)
class Order:
    """What a user asks for.

    out: the table, or a folder for its parts.
    masks: the folder for PNGs of masks; None where none are saved.
    most_failed: the share of all images that may fail.
    shown: progress is told.
    """

    source: Source
    question: Question
    out: Path
    masks: Path | None
    most_failed: float
    shown: bool

    @property
    def masks_place(self) -> str:
        """The folder of the masks in full; empty for none."""
        return "" if self.masks is None else text_of(os.fsencode(self.masks.resolve()))[0]


@dataclass(frozen=True)
class Outcome:
    """A finished job.

    images, failed: of the whole job.
    scored: images of this run, in `seconds`.
    """

    images: int
    failed: int
    scored: int
    seconds: float
    identity: Identity


class TooManyFailed(ScoringError):
    """More images failed than may."""


def run(order: Order, opener: Opener) -> Outcome:
    """Runs a job, or what is left of it. Raises ScoringError, KeyboardInterrupt where Ctrl-C or
    SIGTERM stops it; the same call goes on from there."""
    with Job(order.out) as job, _terminated_as_interrupted():
        _check_masks(order, job)
        # The model comes first: a source of many millions takes longer to list than it to load. The
        # loop stands still meanwhile, so that Ctrl-C ends the listing at once.
        with (
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            _opened(runner, opener(_asked_again(order.question, job))) as answering,
        ):
            identity = answering.identity
            if order.masks is not None and identity.task != "segmentation":
                raise ScoringError(f"--masks: {identity.model} is for {identity.task}")
            with _told("listing", None, order.shown) as progress:
                listing = job.listing(order.source, progress)
            return runner.run(_run(order, answering, job, listing))


def _asked_again(question: Question, job: Job) -> Question:
    """The question of a job that goes on. What was the fastest when it began may not be so now, by
    a hair."""
    if job.began is None or question.servers:
        return question
    began = job.began.identity
    return replace(
        question,
        engine=began.engine if question.engine == "auto" else question.engine,
        variant=began.variant if question.variant == "auto" else question.variant,
    )


@contextmanager
def _opened(
    runner: asyncio.Runner, model: AbstractAsyncContextManager[Answering]
) -> Iterator[Answering]:
    """A model that lives in the loop of a runner, also while that does not run."""
    stack = AsyncExitStack()
    answering = runner.run(stack.enter_async_context(model))
    try:
        yield answering
    finally:
        runner.run(stack.aclose())


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def _run(order: Order, answering: Answering, job: Job, listing: Listing) -> Outcome:
    identity = answering.identity
    facts = Facts(
        source=order.source.address,
        images=listing.count,
        listing=listing.sha256,
        identity=identity,
        top_k=order.question.top_k if identity.task == "classification" else 0,
        masks=order.masks_place,
    )
    job.begin(facts)
    schema = schema_of(identity.task, identity.length, bool(facts.masks))
    schema = with_facts(schema, facts)
    if job.finished:
        return Outcome(listing.count, job.failed, 0, 0.0, identity)
    parts = job.parts(schema)
    rows = Rows(job.folder, schema, failed_before(part.file for part in parts))
    left = list(gaps(parts, listing.count))
    started = time.monotonic()
    try:
        count = await _score(order, answering, listing, left, rows)
    finally:
        rows.write()
    seconds = time.monotonic() - started
    job.finish(schema, listing.count)
    return Outcome(listing.count, rows.failed, count, seconds, identity)


async def _score(
    order: Order,
    answering: Answering,
    listing: Listing,
    left: list[tuple[int, int]],
    rows: Rows,
) -> int:
    """Scores the images that are left; their number."""
    total = sum(stop - start for start, stop in left)
    may_fail = math.ceil(order.most_failed * listing.count)
    _check_failed(rows.failed, may_fail, order, listing.count, None)
    count = 0
    with _told("scoring", total, order.shown) as progress:
        if progress is not None and total < listing.count:
            progress.said = f"{listing.count - total:,} of {listing.count:,} before"
        async with aclosing(answering.tables(listing, left)) as tables:
            async for start, table in tables:
                await asyncio.to_thread(rows.add, start, table)
                count += len(table)
                if progress is not None:
                    progress.advance(len(table))
                _check_failed(rows.failed, may_fail, order, listing.count, table)
    return count


def _check_masks(order: Order, job: Job) -> None:
    """Raises ScoringError where masks would become images of the source, or replace others'."""
    masks = order.masks
    if masks is None:
        return
    if not is_url(order.source.address) and masks.resolve().is_relative_to(order.source.address):
        raise ScoringError(f"--masks {quoted(str(masks))}: lies in the folder of the images")
    try:
        if job.began is None and masks.exists() and any(masks.iterdir()):
            raise ScoringError(f"--masks {quoted(str(masks))}: expected an empty folder")
    except OSError as error:
        raise ScoringError(f"--masks {quoted(str(masks))}: {error.strerror}") from error


def _check_failed(
    failed: int, may_fail: int, order: Order, count: int, table: pa.Table | None
) -> None:
    """Raises TooManyFailed. table: the newest rows, one of which is told."""
    if failed <= may_fail:
        return
    told = ""
    if table is not None:
        wrong = table.filter(table["error"].is_valid()).slice(0, 1).to_pylist()
        told = "".join(f"; such as {row['image']}: {row['error']}" for row in wrong)
    raise TooManyFailed(
        f"{failed:,} of {count:,} images failed, more than {order.most_failed:.3g} of all "
        f"(--max-failed){told}. The rows so far are kept; the same command with a larger "
        "--max-failed goes on"
    )


def opened_here(source: Source, masks: Path | None) -> Opener:
    """Opens models in this process, or on servers."""

    @asynccontextmanager
    async def opened(question: Question) -> AsyncIterator[Answering]:
        async with open_scorer(question) as scorer:
            with BlockScorer(scorer, source, masks) as blocks:
                yield Answering(
                    scorer.identity,
                    lambda listing, left: blocks.tables(listing.blocks(left, BLOCK)),
                )

    return opened


@contextmanager
def _told(title: str, total: int | None, shown: bool) -> Iterator[Progress | None]:
    """Tells how far work is; None where nobody wants to know."""
    if not shown:
        yield None
        return
    with Progress(title, total) as progress:
        yield progress
