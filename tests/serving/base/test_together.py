"""Several coroutines as one piece of work."""

import asyncio

import pytest

from serving.base.errors import InvalidInput
from serving.base.machine.cpu import core_count
from serving.base.turns import together


def test_results_are_in_the_order_of_the_items() -> None:
    async def later(value: int) -> int:
        for _ in range(100 - value):
            await asyncio.sleep(0)
        return value

    assert asyncio.run(together(later, range(100))) == list(range(100))


def test_few_of_many_items_are_under_way_at_a_time() -> None:
    under_way: list[int] = []
    most = 0

    async def work(value: int) -> None:
        nonlocal most
        under_way.append(value)
        most = max(most, len(under_way))
        await asyncio.sleep(0)
        under_way.remove(value)

    asyncio.run(together(work, range(256)))
    assert most == 4 * core_count()


def test_first_failure_is_raised_and_ends_the_others() -> None:
    ended = []

    async def work(fails: bool) -> None:
        if fails:
            await asyncio.sleep(0)
            raise InvalidInput("bad")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(InvalidInput, match="bad"):
        asyncio.run(together(work, [False, True, False]))
    assert ended == [True, True]


def test_cancelling_it_cancels_all() -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(
            together(asyncio.Event.wait, [asyncio.Event(), asyncio.Event()])
        )
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
