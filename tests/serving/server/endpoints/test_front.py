"""What every call goes through, whatever wire it came by."""

import asyncio
import math
from typing import Any, cast

import pytest

from serving.base.errors import InvalidInput, QueueFull
from serving.base.metrics import Metrics
from serving.batching.admission import ByteBudget
from serving.models.registry import Registry
from serving.server.endpoints.front import Call, Front


def test_bytes_of_a_call_are_held_until_it_has_ended() -> None:
    budget = ByteBudget(100)
    # Neither call gets as far as a model.
    front = Front(cast("Registry", None), Metrics(), budget)

    async def meet() -> None:
        inside, leave = asyncio.Event(), asyncio.Event()

        async def stays(_: None, call: Call) -> None:
            call.hold(60)
            inside.set()
            await leave.wait()

        async def comes(_: None, call: Call) -> None:
            call.hold(60)

        async def fails(_: None, call: Call) -> None:
            call.hold(30)
            raise InvalidInput("no image")

        first = asyncio.create_task(run(stays))
        await inside.wait()
        with pytest.raises(QueueFull, match="60 of 100 bytes in flight are taken, 60 more"):
            await run(comes)
        with pytest.raises(InvalidInput):
            await run(fails)
        assert budget.used == 60
        leave.set()
        await first
        await run(comes)
        assert budget.used == 0

    async def run(handler: Any) -> None:
        await front.run("Test", math.inf, handler, None)

    asyncio.run(meet())
