"""Streams of requests: what they receive, hold and give back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from serving.base.errors import QueueFull
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.models.catalogue import Catalogue
from serving.server.endpoints.front import Front
from serving.server.rpc.conversation import STREAM_WINDOW, Conversation
from serving.server.wire.interface import LARGE_ANSWER


class Wire:
    """A stream whose messages a test makes."""

    def __init__(
        self, read: Callable[[], Awaitable[Any]], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self.read = read
        self.write = write


def run(
    budget: MemoryBudget,
    read: Callable[[], Awaitable[Any]],
    write: Callable[[bytes], Awaitable[None]],
    answer: Any,
) -> asyncio.Task[None]:
    front = Front(cast("Catalogue", None), FrontMetrics(), budget)
    conversation = Conversation(front, "Stream", cast("Any", Wire(read, write)), answer)
    return asyncio.create_task(conversation.run())


def test_stream_receives_no_more_than_it_answers_and_holds_answers_until_they_are_sent() -> None:
    budget = MemoryBudget(1 << 30)
    received, sent = 0, asyncio.Semaphore(0)

    async def receive() -> Any:
        nonlocal received
        received += 1
        return received if received <= 100 else None

    async def send(_: bytes) -> None:
        await sent.acquire()

    async def answer(_: int) -> bytes:
        return bytes(LARGE_ANSWER)

    async def converse() -> None:
        stream = run(budget, receive, send, answer)
        while budget.held("answer") < STREAM_WINDOW * LARGE_ANSWER:
            await asyncio.sleep(0)
        assert received == STREAM_WINDOW
        for _ in range(100):
            sent.release()
        await stream
        assert budget.used == 0

    asyncio.run(asyncio.wait_for(converse(), 10))


def test_stream_that_is_given_up_gives_its_answers_back() -> None:
    budget = MemoryBudget(1 << 30)

    async def receive() -> int:
        return 1

    async def send(_: bytes) -> None:
        await asyncio.Event().wait()

    async def answer(_: int) -> bytes:
        return bytes(LARGE_ANSWER)

    async def converse() -> None:
        stream = run(budget, receive, send, answer)
        while budget.held("answer") < STREAM_WINDOW * LARGE_ANSWER:
            await asyncio.sleep(0)
        stream.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream
        assert budget.used == 0

    asyncio.run(asyncio.wait_for(converse(), 10))


def test_stream_ends_with_the_error_of_its_reading_once_all_is_answered() -> None:
    requests, answers = iter([b"1", b"2"]), []

    async def receive() -> bytes:
        try:
            return next(requests)
        except StopIteration:
            raise QueueFull("cut", 1.0) from None

    async def send(data: bytes) -> None:
        answers.append(data)

    async def answer(data: bytes) -> bytes:
        await asyncio.sleep(0)
        return data

    async def converse() -> None:
        with pytest.raises(QueueFull, match="cut"):
            await run(MemoryBudget(100), receive, send, answer)

    asyncio.run(asyncio.wait_for(converse(), 10))
    assert answers == [b"1", b"2"]
