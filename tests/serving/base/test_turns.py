"""Work that takes turns on the event loop."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from serving.base.turns import Readers
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
