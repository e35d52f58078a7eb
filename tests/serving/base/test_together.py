"""Several coroutines as one piece of work."""

import asyncio

import pytest

from serving.base.errors import InvalidInput
from serving.base.together import together


def test_results_are_in_the_order_of_the_work() -> None:
    async def later(value: int) -> int:
        for _ in range(3 - value):
            await asyncio.sleep(0)
        return value

    assert asyncio.run(together(later(value) for value in range(3))) == [0, 1, 2]


def test_first_failure_is_raised_and_ends_the_others() -> None:
    ended = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise InvalidInput("bad")

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(InvalidInput, match="bad"):
        asyncio.run(together([wait(), fail(), wait()]))
    assert ended == [True, True]


def test_cancelling_it_cancels_all() -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(together([asyncio.Event().wait(), asyncio.Event().wait()]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
