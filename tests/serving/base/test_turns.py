"""Work that takes turns on the event loop."""

import asyncio
import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from serving.base.turns import Readers, Turns, joined
from tests.support.stepped_loop import SteppedLoop


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    loop.close()


def test_one_reader_goes_on_in_a_round_in_their_order(loop: SteppedLoop) -> None:
    readers, went = Readers(), list[int]()

    def wait(reader: int) -> None:
        readers.wait(lambda: went.append(reader))

    def all_wait() -> None:
        for reader in range(3):
            wait(reader)

    loop.call(all_wait)
    seen = []
    for _ in range(4):
        seen.append(len(went))
        loop.rounds()
    assert went == [0, 1, 2]
    assert all(after - before <= 1 for before, after in itertools.pairwise(seen))


def test_reader_that_waits_again_comes_after_the_others(loop: SteppedLoop) -> None:
    readers, went = Readers(), list[str]()

    def greedy() -> None:
        went.append("greedy")
        if len(went) < 5:
            readers.wait(greedy)

    def both_wait() -> None:
        readers.wait(greedy)
        readers.wait(lambda: went.append("modest"))

    loop.call(both_wait)
    loop.rounds(10)
    assert went[:3] == ["greedy", "modest", "greedy"]


def test_fault_of_a_reader_stops_no_other(loop: SteppedLoop) -> None:
    readers, went = Readers(), list[str]()

    def fail() -> None:
        raise ConnectionError("gone")

    def both_wait() -> None:
        readers.wait(fail)
        readers.wait(lambda: went.append("other"))

    loop.call(both_wait)
    loop.rounds(5)
    assert went == ["other"]
    assert isinstance(loop.errors[0]["exception"], ConnectionError)
    loop.call(lambda: readers.wait(lambda: went.append("later")))
    loop.rounds(2)
    assert went == ["other", "later"]
    assert asyncio.all_tasks(loop) == set()


@pytest.mark.parametrize("sizes", [[0], [3, 0, 5], [5 << 20], [1, 3 << 20, 2, 1 << 20, 700_000]])
def test_parts_are_joined_with_turns_of_others_in_between(sizes: list[int]) -> None:
    random = np.random.default_rng(0)
    parts = [random.integers(0, 256, size, np.uint8).data for size in sizes]
    seen: list[int] = []

    async def run() -> bytes:
        whole = asyncio.create_task(joined(parts, Turns()))
        while not whole.done():
            seen.append(1)
            await asyncio.sleep(0)
        return whole.result()

    assert asyncio.run(run()) == b"".join(parts)
    # A turn of others for every MiB at least, beside those of a task that begins and ends.
    assert len(seen) >= sum(sizes) >> 20


@pytest.mark.parametrize("others", [True, False])
def test_loop_comes_to_rest_between_slices_while_others_call(
    others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        rests.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", noted)
    asyncio.run(Turns(lambda: others).next())
    assert [seconds > 0 for seconds in rests] == [others]
