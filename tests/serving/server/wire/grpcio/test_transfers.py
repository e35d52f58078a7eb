"""What the wire on grpc.aio holds, and whose messages it receives while memory is short."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from serving.base.errors import QueueFull
from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.server.wire.grpcio.transfers import GrpcioCall, Transfers
from serving.server.wire.interface import LARGE_ANSWER

PEER = "ipv4:10.0.0.1:5"


class Context:
    """A call of grpc.aio whose message is there, and whose reader reads when a test says so."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()

    def peer(self) -> str:
        return PEER

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return b"message"

    async def write(self, _: bytes) -> None:
        await self.may_read.wait()


def transfers() -> Transfers:
    return Transfers(MemoryBudget(1 << 30), Copies(), FrontMetrics())


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(body(), 10)

    asyncio.run(bounded())


def test_addresses_that_were_cut_are_refused_and_their_streams_wait() -> None:
    async def body() -> None:
        found = transfers()
        found.refused = frozenset({"10.0.0.1"})
        unary, stream = (
            GrpcioCall(found, cast("Any", Context()), unary=unary) for unary in (True, False)
        )
        with pytest.raises(QueueFull, match="memory is short"):
            await unary.read()
        assert found.metrics.shed.labels("", "memory").value == 1
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0.05)
        assert not reading.done()
        assert not found.any
        found.refused = frozenset({"10.0.0.2"})
        assert await reading == b"message"
        assert await unary.read() == b"message"

    run(body)


@pytest.mark.parametrize(("size", "held"), [(LARGE_ANSWER - 1, 0), (LARGE_ANSWER, LARGE_ANSWER)])
def test_a_copy_of_a_large_answer_is_held_until_it_is_written(size: int, held: int) -> None:
    async def body() -> None:
        found, context = transfers(), Context()
        call = GrpcioCall(found, cast("Any", context), unary=False)
        writing = asyncio.create_task(call.write(bytes(size)))
        while not found.answers:
            await asyncio.sleep(0)
        assert found.budget.held("answer") == held
        context.may_read.set()
        await writing
        assert found.budget.used == 0
        assert not found.any

    run(body)
