"""Streams that only wait, while the server's own memory grows."""

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import pytest

from serving.base.memory import MemoryBudget
from serving.base.metrics import FrontMetrics
from serving.base.turns import Copies
from serving.server.config import ServerConfig
from serving.server.wire.grpcio.connections import Connections
from serving.server.wire.grpcio.memory_watch import MemoryWatch
from serving.server.wire.grpcio.supervision import Supervision
from serving.server.wire.grpcio.transfers import GrpcioCall, Transfers
from serving.server.wire.interface import Limits, Peer

MIB = 1 << 20
PEER = Peer("10.0.0.1", 5)


class Wire(Connections):
    """Connections over which as much has come as a test says."""

    def __init__(self, come: dict[Peer, int]) -> None:
        super().__init__(1, 10**6)
        self.come = come

    def received(self) -> dict[Peer, int]:
        return self.come


class Ended:
    """A context that says whether its call was ended."""

    def __init__(self) -> None:
        self.count = 0

    def peer(self) -> str:
        return "ipv4:10.0.0.1:5"

    async def abort(self, *_: object) -> None:
        self.count += 1


async def rest_after_growth(come: int, streams: int) -> tuple[int, int]:
    """MiB at rest, and streams that were ended, after 900 MiB came while streams wait."""
    size = 200 * MIB
    budget, metrics = MemoryBudget(1024 * MIB), FrontMetrics()
    watch = MemoryWatch(budget, lambda: size)
    transfers = Transfers(budget, Copies(), metrics)
    supervision = Supervision(
        transfers, Wire({PEER: come}), watch, metrics,
        Limits.of(ServerConfig(model_repository=Path())),
    )  # fmt: skip
    contexts = [cast("Any", Ended()) for _ in range(streams)]
    for context in contexts:
        call = GrpcioCall(transfers, context, unary=False)
        transfers.streams[call] = call, time.monotonic(), context.peer(), 0
    supervision.start()
    try:
        await asyncio.sleep(1.3)
        # More than calls may have unseen.
        size += 900 * MIB
        transfers.begun.set()
        await asyncio.sleep(0.3)
    finally:
        supervision.stop()
    return watch.rest // MIB, sum(context.count for context in contexts)


@pytest.mark.parametrize("streams", [1, 100])
def test_waiting_streams_are_not_cut_for_a_model_that_was_loaded(streams: int) -> None:
    rest, ended = asyncio.run(rest_after_growth(1000, streams))
    assert rest == 1100 - 1
    assert ended == 0


def test_parts_of_messages_are_not_taken_for_the_servers_own() -> None:
    rest, ended = asyncio.run(rest_after_growth(900 * MIB, 100))
    assert rest == 200
    assert ended > 0
