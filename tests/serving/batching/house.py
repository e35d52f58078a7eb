"""Two models that share the cores, on a loop that a test advances, and faults to plant in them."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from serving.base.errors import DeadlineExpired
from serving.base.metrics import EngineMetrics
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreTurns
from serving.batching.latency import LatencyTable
from serving.batching.ticket import Answer, State, Ticket
from serving.repository.model_config import Batching, QueuePolicy
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.support.stepped_loop import ManualExecutor, SteppedLoop

CORES = 2


class Bomb(Exception):
    """The injected failure."""


class Fuse:
    """Lets the first `after` calls of what it wraps pass and fails the next `count`."""

    def __init__(self, after: int, count: int) -> None:
        self.after, self.count = after, count
        self.calls = 0
        self.lit = False

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def fused(*args: Any, **options: Any) -> Any:
            self.burn()
            return function(*args, **options)

        return fused

    def burn(self) -> None:
        if self.lit:
            self.calls += 1
            if self.after < self.calls <= self.after + self.count:
                raise Bomb(f"call {self.calls}")

    @property
    def went_off(self) -> bool:
        return self.calls > self.after


class House:
    """Two models on the same cores, one that runs inline and one on threads, on a loop that the
    test advances."""

    def __init__(self) -> None:
        self.loop = SteppedLoop()
        self.turns = CoreTurns(CORES)
        self.metrics = EngineMetrics()
        self.threads = ManualExecutor()
        self.clock = self.loop.time
        self.engines = {"inline": FakeEngine(), "threaded": FakeEngine()}
        self.latency = {name: LatencyTable({1: 0.01, 4: 0.02}) for name in self.engines}
        self.batchers = {name: self.batcher(name) for name in self.engines}
        self.calls: list[tuple[Ticket, asyncio.Task[Answer], float]] = []

    def batcher(self, name: str) -> DynamicBatcher:
        slow = QueuePolicy(default_timeout=0.05, timeout_delays=True)
        return DynamicBatcher(
            self.engines[name],
            model=name,
            version="1",
            max_batch_size=4,
            batching=Batching(
                max_queue_delay=0.02,
                priority_levels=2,
                default_priority=1,
                priority_policies={2: slow},
            ),
            instances=1,
            latency=self.latency[name],
            metrics=self.metrics,
            turns=self.turns,
            cores=CORES,
            overlap_rows=2 if name == "threaded" else 0,
            inline_seconds=1.0 if name == "inline" else 0.0,
            clock=lambda: self.clock(),
            threads=self.threads,
        )

    def admit(self, name: str, seconds: float = math.inf, priority: int = 1) -> Ticket:
        return self.batchers[name].admit(1, priority, self.loop.now + seconds)

    def submit(self, name: str, ticket: Ticket) -> None:
        value = float(len(self.calls) + 1)
        inputs = {"x": np.full((1, 2), value, np.float32)}
        task = self.loop.create_task(answered(self.batchers[name], ticket, [inputs]))
        self.calls.append((ticket, task, value))

    def advance(self, seconds: float = 0.0) -> None:
        self.loop.now += seconds
        self.loop.rounds(30)

    def work(self) -> None:
        while self.threads.work:
            self.threads.finish()
            self.loop.rounds(30)

    def live(self, fuse: Fuse) -> None:
        """A little of everything: batches of both models, waits for company and for the cores, a
        deadline that passes, a delay that does, and a call that goes away."""
        models = list(self.batchers)
        tickets = [(name, self.admit(name)) for name in models for _ in range(5)]
        tickets += [(name, self.admit(name, seconds=0.03)) for name in models]
        tickets += [(name, self.admit(name, priority=2)) for name in models]
        fuse.lit = True
        for name, ticket in tickets[:10]:
            self.submit(name, ticket)
        self.advance()
        for name, ticket in tickets[10:]:
            self.submit(name, ticket)
        self.advance()
        self.calls[0][1].cancel()
        self.calls[-1][1].cancel()
        for _ in range(8):
            self.advance(0.01)
        self.work()
        for _ in range(8):
            self.advance(0.01)
            self.work()
        fuse.lit = False
        # An alarm that failed rings again.
        for _ in range(5):
            self.advance(0.01)
            self.work()

    def check_nothing_lost(self) -> None:
        for ticket, task, value in self.calls:
            assert task.done(), ticket.state
            if task.cancelled():
                continue
            error = task.exception()
            assert error is None or isinstance(error, Bomb | DeadlineExpired), error
            if error is None:
                assert task.result().outputs["y"].tolist() == [[2 * value] * 2]
            assert ticket.state not in (State.RESERVED, State.QUEUED, State.RUNNING)
        assert self.turns.free == CORES
        for name, batcher in self.batchers.items():
            assert not batcher._asked | batcher._running | batcher._overlap.ending
            assert batcher._waiting.idle.is_set()
            assert batcher._waiting.rows == batcher._waiting.queue.rows == 0
            assert not +batcher._waiting.calls_of_level
            assert self.metrics.counters(name, "1").pending.value == 0

    def check_still_serves(self) -> None:
        self.calls.clear()
        for name in self.batchers:
            self.submit(name, self.admit(name))
        for _ in range(4):
            self.advance(0.03)
            self.work()
        for _, task, value in self.calls:
            assert task.result().outputs["y"].tolist() == [[2 * value] * 2]
        self.check_nothing_lost()

    def close(self) -> None:
        for batcher in self.batchers.values():
            batcher.close()
        self.loop.close()
