"""Both sides of the records in one process, on an engine whose time and failures a test decides."""

import asyncio
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from google.protobuf import text_format

from protos.gen import model_config_pb2
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreTurns
from serving.batching.latency import LatencyTable
from serving.models.facts import ModelFacts
from serving.remote.channel import Channel, channel_pair
from serving.remote.engine.served import Served
from serving.remote.flight import FlightRecorder, calls_at_death, recorder_file
from serving.remote.front.calls import Calls
from serving.remote.front.port import RemotePort
from serving.remote.slots import Slots
from serving.repository.model_config import from_proto
from tests.serving.batching.fake_engine import FakeEngine, answered

CONFIG = 'max_batch_size: 8 platform: "fake" dynamic_batching { %s }'


@dataclass
class Pair:
    """A front and an engine side, which may be replaced as if its process had died."""

    policy: str = ""
    latency: dict[int, float] = field(default_factory=dict)
    engine: FakeEngine = field(default_factory=FakeEngine)
    slots: Slots = field(default_factory=lambda: Slots(1 << 26))

    def __post_init__(self) -> None:
        self.metrics = FrontMetrics()
        self.calls = Calls(self.slots, self.metrics, lambda: 0.5)
        self.facts: ModelFacts | None = None
        self.port: RemotePort | None = None
        self.reasons: list[str] = []
        self._made: list[tuple[FakeEngine, DynamicBatcher]] = []

    def start(self) -> None:
        front, back = channel_pair()
        self.flight = recorder_file()
        self.channel = Channel(front, self.calls.received, self.reasons.append)
        flight = FlightRecorder(os.dup(self.flight))
        self.served = Served(flight, lambda _: None)
        # A batch that still runs when the side "dies" answers on its own channel.
        self.back = Channel(back, self.served.received, self.reasons.append)
        self.served.connect(self.back)
        proto = text_format.Parse(CONFIG % self.policy, model_config_pb2.ModelConfig())
        config = from_proto(proto, Path("doubles/config.pbtxt"))
        self.batcher = DynamicBatcher(
            self.engine, model="doubles", version="1", max_batch_size=8, batching=config.batching,
            instances=1, latency=LatencyTable(self.latency, [1, 8]), metrics=EngineMetrics(),
            turns=CoreTurns(1), cores=1,
        )  # fmt: skip
        self._made.append((self.engine, self.batcher))
        self.facts = ModelFacts(
            config, "1", "fake", "fp32", None, self.engine.inputs, self.engine.outputs,
            latency=self.batcher.latency,
        )  # fmt: skip
        self.calls.connected(self.channel)
        number = self.served.add(self.facts, self.batcher)
        old, self.port = self.port, RemotePort(self.facts, number, self.calls, _none)
        if old is not None:
            old.replaced_by(self.port)
        self.calls.bound(self.port)

    async def end(self) -> None:
        """Ends all engine sides that there were, once they have answered."""
        for engine, batcher in self._made:
            engine.hold.set()
            # Calls without inputs may still have places in those that are dead.
            await batcher.drain(5 if batcher is self.batcher else 0)
            batcher.close()

    def die(self) -> None:
        """As after kill -9: what still runs of it answers nobody, and writes into no slot."""
        self.served.answer = lambda _call, _outcome: None  # type: ignore[method-assign]
        self.back.close()
        self.channel.close()
        self.calls.disconnected("it was ended")
        assert self.port is not None
        running = calls_at_death(self.flight, [self.port.number])
        os.close(self.flight)
        self.port.lost()
        self.calls.died(running)

    async def ask(self, value: float, rows: int = 1, deadline: float = math.inf) -> list[float]:
        assert self.port is not None
        ticket = self.port.admit(rows, 0, deadline)
        x = np.full((rows, 2), value, np.float32)
        answer = await answered(self.port, ticket, [{"x": x}])
        return answer.outputs["y"][:, 0].tolist()

    def states(self) -> tuple[int, int]:
        """Slots that are in use, and those that the engine side may use."""
        slabs = self.calls.slots.slabs.values()
        return sum(slab.used for slab in slabs), len(self.calls._lent)

    async def until(self, condition) -> None:  # type: ignore[no-untyped-def]
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)  # no event tells of it


async def _none(_: RemotePort) -> list:  # type: ignore[type-arg]
    return []


@asynccontextmanager
async def pair(policy: str = "", latency: dict[int, float] | None = None) -> AsyncIterator[Pair]:
    made = Pair(policy, latency or {})
    made.start()
    yield made
    await made.end()
    await made.until(lambda: made.states() == (0, 0))
    made.channel.close()
    made.back.close()
