"""How large a batch of the waiting calls is made."""

import asyncio

import pytest

from serving.batching.batcher import DynamicBatcher
from serving.batching.latency import LatencyTable
from serving.repository.model_config import Batching
from tests.serving.batching.fake_engine import FakeEngine
from tests.serving.batching.running import call, occupied, run, until


def test_batch_never_exceeds_its_size_and_rows_of_a_call_stay_together() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, v, rows=r) for v, r in ((1, 2), (2, 3), (3, 1), (4, 1))]
        await asyncio.sleep(0)
        engine.hold.set()
        answers = await asyncio.gather(*waiting)
        assert engine.batches[1:] == [[1, 1], [2, 2, 2, 3], [4]]
        assert [a.outputs["y"].shape for a in answers] == [(2, 2), (3, 2), (1, 2), (1, 2)]

    run(body)


def test_preferred_size_ends_the_wait() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await asyncio.gather(call(batcher, 1), call(batcher, 2))
        assert engine.batches == [[1, 2]]

    run(body, batching=Batching(max_queue_delay=600, preferred_batch_sizes=(2,)))


def test_batch_is_kept_small_enough_for_the_deadline_of_its_head() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await occupied(batcher, engine)
        waiting = [call(batcher, v, timeout=t) for v, t in ((1, 5.0), (2, 30), (3, 30), (4, 30))]
        await asyncio.sleep(0)
        engine.hold.set()
        await asyncio.gather(*waiting)
        assert engine.batches[1:] == [[1, 2], [3, 4]]
        assert [r.limited_by for r in batcher.recent] == ["empty", "deadline", "empty"]

    run(body, latency=LatencyTable({1: 1e-3, 2: 2e-3, 4: 8.0}))


def linear() -> LatencyTable:
    """A row takes as long in every batch."""
    return LatencyTable({1: 0.001, 2: 0.002, 4: 0.004, 8: 0.008})


async def run_queued(batcher: DynamicBatcher, engine: FakeEngine, rows: list[int]) -> None:
    """Has calls of so many rows, of value 0, 1, ... each, wait together behind a first batch, and
    returns when they are answered."""
    await occupied(batcher, engine)
    waiting = [call(batcher, value, rows=count) for value, count in enumerate(rows)]
    await asyncio.sleep(0)
    engine.hold.set()
    await asyncio.gather(*waiting)


def test_where_smaller_batches_do_as_well_the_rest_goes_with_the_next() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await run_queued(batcher, engine, [1] * 7)
        assert engine.batches[1:] == [[0, 1, 2, 3], [4, 5], [6]]
        decided = [(r.rows, r.limit, r.limited_by, r.left_waiting) for r in batcher.recent]
        assert decided[1:] == [(4, 4, "size", 3), (2, 2, "size", 1), (1, 1, "empty", 0)]

    run(body, max_batch_size=8, latency=linear())


@pytest.mark.parametrize(
    ("rows", "decided"),
    [
        ([6, 1], [(6, "size"), (1, "empty")]),
        ([6], [(6, "empty")]),
        ([6, 3], [(6, "next_call"), (3, "empty")]),
    ],
)
def test_call_of_more_rows_than_the_good_size_is_not_cut(
    rows: list[int], decided: list[tuple[int, str]]
) -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await run_queued(batcher, engine, rows)
        assert [(r.rows, r.limited_by) for r in batcher.recent][1:] == decided

    run(body, max_batch_size=8, latency=linear())


def test_preferred_sizes_are_the_sizes_of_batches() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        await run_queued(batcher, engine, [1] * 7)
        assert engine.batches[1:] == [[0, 1, 2, 3, 4], [5, 6]]

    preferred = Batching(preferred_batch_sizes=(3, 5))
    run(body, max_batch_size=8, latency=linear(), batching=preferred)


def test_what_a_batch_leaves_runs_on_another_free_instance() -> None:
    async def body(batcher: DynamicBatcher, engine: FakeEngine) -> None:
        engine.hold.clear()
        waiting = [call(batcher, value) for value in range(3)]
        await until(lambda: engine.running == 2)
        engine.hold.set()
        await asyncio.gather(*waiting)
        assert sorted(engine.batches) == [[0, 1], [2]]

    run(body, max_batch_size=8, instances=2, latency=linear())
