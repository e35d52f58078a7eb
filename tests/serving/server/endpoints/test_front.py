"""What every call goes through, whatever wire it came by."""

import asyncio
import math
from typing import cast

import pytest

from serving.base.errors import DeadlineExpired, InvalidInput, QueueFull
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.models.catalogue import Catalogue
from serving.server.endpoints.call import InferenceCall
from serving.server.endpoints.front import Front


def test_bytes_of_a_call_are_held_until_it_has_ended() -> None:
    budget = MemoryBudget(100)
    # Neither call gets as far as a model.
    front = Front(cast("Catalogue", None), FrontMetrics(), budget)

    async def meet() -> None:
        inside, leave = asyncio.Event(), asyncio.Event()

        async def stays() -> None:
            with call() as held:
                held.hold("message", 60)
                inside.set()
                await leave.wait()

        def comes() -> None:
            with call() as held:
                held.hold("message", 60)

        def fails() -> None:
            with call() as held:
                held.hold("message", 30)
                raise InvalidInput("no image")

        first = asyncio.create_task(stays())
        await inside.wait()
        with pytest.raises(QueueFull, match="60 of 100 bytes are held, 60 more"):
            comes()
        with pytest.raises(InvalidInput):
            fails()
        assert budget.used == 60
        leave.set()
        await first
        comes()
        assert budget.used == 0

    def call() -> InferenceCall:
        return front.call("Test", lambda: None)

    asyncio.run(meet())


def test_message_that_has_come_is_held_from_the_start() -> None:
    budget = MemoryBudget(100)
    front = Front(cast("Catalogue", None), FrontMetrics(), budget)
    with front.call("Test", lambda: None, received=90):
        assert budget.held("message") == 90
        with pytest.raises(QueueFull), front.control("Test", lambda: None, received=20):
            pass
    assert budget.used == front.running == 0


def test_thread_does_not_wait_for_memory_once_its_call_has_ended() -> None:
    budget = MemoryBudget(100)
    front = Front(cast("Catalogue", None), FrontMetrics(), budget)
    with front.call("Test", lambda: None) as call:
        pass
    with budget.decoding(80, 0.0), pytest.raises(DeadlineExpired), call.decoding(80, math.inf):
        pytest.fail("it got the bytes")
