"""The batcher's whole life in any order: calls come, wait, run, fail, expire and go away while it
is drained and closed. The clock, the event loop and the threads are the test's own."""

import asyncio
import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.base.errors import DeadlineExpired, EngineError, ModelNotReady, QueueFull, Shed
from serving.base.metrics import EngineMetrics
from serving.base.tensor import TensorSpec
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreShare, CoreTurns, Turn
from serving.batching.latency import LatencyTable
from serving.batching.ticket import Answer, State, Ticket
from serving.repository.model_config import Batching, QueuePolicy
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.support.stepped_loop import ManualExecutor, SteppedLoop

CORES = 2
Task = asyncio.Task[Answer]
# More rounds than an inline batch waits for calls, and a few for what follows.
SETTLED = 40


def nothing(turn: Turn) -> None:
    """Another model's batch begins."""


def broken(turn: Turn) -> None:
    raise RuntimeError("another model's batch cannot start")


class BatcherLife(RuleBasedStateMachine):
    """Every call has a value of its own, by which the engine's batches tell who rode in them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SteppedLoop()
        self.threads = ManualExecutor()
        self.engine = FakeEngine()
        self.turns = CoreTurns(CORES)
        self.metrics = EngineMetrics()
        self.counters = self.metrics.counters("m", "1")
        self.reserved: list[Ticket] = []
        self.calls: list[tuple[Ticket, Task, float]] = []
        self.tickets: list[Ticket] = []
        self.others: list[Turn] = []
        self.other_share = CoreShare()
        self.drained: asyncio.Task[bool] | None = None
        self.closed = False

    @initialize(
        instances=st.integers(1, 2),
        overlap_rows=st.integers(0, 2),
        max_batch_size=st.sampled_from([0, 1, 4]),
        inline=st.booleans(),
        cores=st.integers(0, CORES),
        delay=st.sampled_from([0.0, 0.0, 0.05]),
        preferred=st.sampled_from([(), (2,), (2, 3)]),
        slo=st.sampled_from([math.inf, math.inf, 0.5]),
        room=st.sampled_from([2, 100]),
        delays=st.booleans(),
        shapes=st.booleans(),
    )
    def build(
        self,
        instances: int,
        overlap_rows: int,
        max_batch_size: int,
        inline: bool,
        cores: int,
        delay: float,
        preferred: tuple[int, ...],
        slo: float,
        room: int,
        delays: bool,
        shapes: bool,
    ) -> None:
        if shapes:
            # Rows of any width; those of different widths cannot share a batch.
            self.engine.inputs = (TensorSpec("x", "FP32", (-1, -1)),)
        self.max_rows = max(1, max_batch_size)
        self.instances = instances
        self.at_once = instances + (overlap_rows > 0)
        policies = {
            1: QueuePolicy(max_queue_size=room, default_timeout=0.2, timeout_delays=delays),
            2: QueuePolicy(max_queue_size=room, allow_timeout_override=True),
        }
        self.batcher = DynamicBatcher(
            self.engine,
            model="m",
            version="1",
            max_batch_size=max_batch_size,
            batching=Batching(
                preferred_batch_sizes=preferred if max_batch_size == 4 else (),
                max_queue_delay=delay,
                priority_levels=2,
                default_priority=2,
                priority_policies=policies,
            ),
            instances=instances,
            latency=LatencyTable({1: 0.01, 4: 0.02}),
            metrics=self.metrics,
            turns=self.turns,
            cores=cores,
            overlap_rows=overlap_rows,
            slo=slo,
            inline_seconds=1.0 if inline else 0.0,
            clock=self.loop.time,
            threads=self.threads,
        )

    # Calls.

    @rule(
        rows=st.integers(1, 4),
        priority=st.integers(0, 2),
        seconds=st.sampled_from([0.001, 0.05, 0.3, math.inf, math.inf]),
        timeout=st.sampled_from([math.inf, 0.1]),
    )
    def admit(self, rows: int, priority: int, seconds: float, timeout: float) -> None:
        rows = min(rows, self.max_rows)
        deadline = self.loop.now + seconds
        try:
            ticket = self.loop.call(lambda: self.batcher.admit(rows, priority, deadline, timeout))
        except (QueueFull, Shed):
            return
        except ModelNotReady:
            assert self.drained is not None or self.closed
            return
        self.reserved.append(ticket)
        self.tickets.append(ticket)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = self.pick(data, self.reserved)
        for _ in range(2):
            self.loop.call(lambda: self.batcher.withdraw(ticket))
        assert ticket.state is State.WITHDRAWN

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), parted=st.booleans(), wide=st.booleans())
    def submit(self, data: st.DataObject, parted: bool, wide: bool) -> None:
        ticket = self.pick(data, self.reserved)
        value = float(len(self.calls) + 1)
        width = 3 if wide and self.engine.inputs[0].shape[1] == -1 else 2
        inputs = np.full((ticket.rows, width), value, np.float32)
        cuts = range(ticket.rows) if parted and self.max_rows > 1 else [0]
        parts = [{"x": part} for part in np.split(inputs, list(cuts)[1:])]
        task = self.loop.create_task(answered(self.batcher, ticket, parts))
        self.loop.rounds()
        self.calls.append((ticket, task, value))

    @precondition(lambda self: self.under_way())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        _, task, _ = data.draw(st.sampled_from(self.under_way()))
        task.cancel()

    # Time and threads.

    @rule(seconds=st.sampled_from([1e-4, 0.01, 0.05, 0.3, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        self.loop.rounds()

    @rule(count=st.sampled_from([1, 2, SETTLED]))
    def loop_turns(self, count: int) -> None:
        self.loop.rounds(count)

    @precondition(lambda self: self.threads.work)
    @rule(data=st.data(), failure=st.sampled_from([None, None, EngineError("x"), StopIteration()]))
    def thread_ends(self, data: st.DataObject, failure: Exception | None) -> None:
        self.engine.failure = failure
        self.threads.finish(data.draw(st.integers(0, len(self.threads.work) - 1)))
        self.engine.failure = None

    @rule(failure=st.sampled_from([EngineError("x"), StopIteration()]))
    def inline_batch_fails(self, failure: Exception) -> None:
        self.engine.failure = failure
        self.loop.rounds(SETTLED)
        self.engine.failure = None

    # Another model.

    @rule(cores=st.integers(0, CORES), start=st.sampled_from([nothing, nothing, broken]))
    def other_model_asks(self, cores: int, start: Any) -> None:
        turn = Turn(self.other_share, cores, 0.01, start)
        self.loop.call(lambda: self.turns.ask(turn, self.loop.now))
        if start is nothing:
            self.others.append(turn)

    @precondition(lambda self: self.running_others())
    @rule(data=st.data())
    def other_model_ends(self, data: st.DataObject) -> None:
        self.other_ends(data.draw(st.sampled_from(self.running_others())))

    # The end.

    @precondition(lambda self: self.drained is None)
    @rule(seconds=st.sampled_from([0.0, 0.02, 1.0]), chance=st.integers(0, 4))
    def drain(self, seconds: float, chance: int) -> None:
        # Rarely: no call is admitted after it.
        if chance:
            return
        self.drained = self.loop.create_task(self.batcher.drain(seconds))
        self.loop.rounds()

    @precondition(lambda self: self.drained is not None and not self.drained.done())
    @rule()
    def cancel_drain(self) -> None:
        assert self.drained is not None
        self.drained.cancel()
        self.loop.rounds(3)

    @precondition(lambda self: not self.closed)
    @rule(chance=st.integers(0, 30))
    def close(self, chance: int) -> None:
        # Mostly as the registry does, when the drain has ended.
        if chance == 0 or (self.drained is not None and self.drained.done()):
            self.batcher.close()
            self.closed = True

    # What always holds.

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "batcher"):
            return
        waiting = self.batcher._waiting
        states = Counter(ticket.state for ticket in self.tickets)
        queued = [t for t in self.tickets if t.state is State.QUEUED]
        waits = [t for t in self.tickets if t.state in (State.QUEUED, State.RESERVED)]
        assert waiting.queue.rows == sum(t.rows for t in queued)
        assert sorted(map(id, waiting.queue)) == sorted(map(id, queued))
        assert self.counters.pending.value == states[State.QUEUED]
        assert waiting.rows == sum(t.rows for t in waits)
        assert sorted(id(t) for *_, t in waiting._line) == sorted(map(id, waits))
        assert waiting._line == sorted(waiting._line)
        assert +waiting.calls_of_level == Counter(t.priority for t in waits)
        asked, running = self.batcher._asked, self.batcher._running
        ending = self.batcher._overlap.ending
        assert ending <= running
        assert len(asked) + len(running) - len(ending) <= self.instances
        assert len(ending) <= self.at_once - self.instances
        assert not asked & running
        riding = [t for batch in running for t in batch.tickets]
        assert len(set(map(id, riding))) == len(riding) == waiting.running
        assert {t.state for t in riding} <= {State.RUNNING, State.CANCELLED}
        assert states[State.RUNNING] == sum(t.state is State.RUNNING for t in riding)
        assert waiting.idle.is_set() == (not waits and not riding)

    @invariant()
    def cores_add_up(self) -> None:
        granted = self.turns._running
        assert self.turns.free + sum(turn.cores for turn in granted) == CORES
        assert self.turns.free >= 0
        if hasattr(self, "batcher"):
            own = {t for t in granted if t not in self.others}
            # A batch that is about to end has given its cores back.
            asked, running = self.batcher._asked, self.batcher._running
            assert running - self.batcher._overlap.ending <= own <= asked | running
            assert self.batcher._execution._buffers.qsize() == self.at_once

    @invariant()
    def nobody_rode_twice(self) -> None:
        rows = Counter(value for batch in self.engine.batches for value in batch)
        for ticket, _, value in self.calls:
            assert rows.pop(value, 0) in (0, ticket.rows)
        assert not rows
        for batch in self.engine.batches:
            assert len(batch) <= self.max_rows
            # The rows of a call lie side by side.
            assert sum(a != b for a, b in itertools.pairwise(batch)) == len(set(batch)) - 1

    @invariant()
    def answers_are_right(self) -> None:
        for ticket, task, value in self.calls:
            if task.done():
                self.check(ticket, task, value)

    def check(self, ticket: Ticket, task: Task, value: float) -> None:
        if task.cancelled():
            assert ticket.state in (
                State.CANCELLED, State.ANSWERED, State.EXPIRED, State.RESERVED, State.WITHDRAWN
            )  # fmt: skip
            return
        match task.exception():
            case None:
                assert ticket.state is State.ANSWERED
                output = task.result().outputs["y"]
                assert len(output) == ticket.rows
                assert (output == 2 * value).all()
                assert task.result().timing is ticket.timing
                assert ticket.timing.batch_size >= ticket.rows
            case DeadlineExpired():
                assert ticket.state is State.EXPIRED
                assert self.loop.now >= ticket.deadline - 1e-3
            case EngineError():
                assert ticket.state is State.ANSWERED
            case ModelNotReady():
                assert ticket.state in (State.ANSWERED, State.WITHDRAWN)
                assert self.drained is not None or self.closed
            case other:
                raise AssertionError(other)

    @invariant()
    def no_callback_raised(self) -> None:
        assert not self.loop.errors

    def teardown(self) -> None:
        try:
            if hasattr(self, "batcher"):
                self.come_to_an_end()
        finally:
            self.loop.close()

    def come_to_an_end(self) -> None:
        """Everything that holds calls up ends; then every call has its answer."""
        for ticket, task, _ in self.calls:
            # A task that was cancelled before its first step never got to the batcher.
            if ticket.state is State.RESERVED and task.done():
                self.reserved.append(ticket)
        for ticket in self.reserved:
            self.batcher.withdraw(ticket)
        for _ in range(200):
            for turn in self.running_others():
                self.other_ends(turn)
            while self.threads.work:
                self.threads.finish()
            self.loop.now += 0.06
            self.loop.rounds(SETTLED)
            if not (self.under_way() or self.others or self.threads.work):
                break
        else:
            raise AssertionError("calls are left")
        self.counts_agree()
        self.cores_add_up()
        self.nobody_rode_twice()
        self.answers_are_right()
        assert self.batcher._waiting.idle.is_set()
        assert not self.batcher._asked
        assert not self.batcher._running
        assert self.turns.free == CORES
        drained = self.drained or self.loop.create_task(self.batcher.drain(1.0))
        self.loop.rounds(5)
        assert drained.done()
        assert drained.cancelled() or isinstance(drained.result(), bool)
        if not self.closed:
            self.batcher.close()
        assert not self.loop.errors

    # Helpers.

    def other_ends(self, turn: Turn) -> None:
        self.others.remove(turn)
        for _ in range(2):
            self.loop.call(lambda: self.turns.give_back(turn, self.loop.now))

    def pick(self, data: st.DataObject, tickets: list[Ticket]) -> Ticket:
        return tickets.pop(data.draw(st.integers(0, len(tickets) - 1)))

    def under_way(self) -> list[tuple[Ticket, Task, float]]:
        return [call for call in self.calls if not call[1].done()]

    def running_others(self) -> list[Turn]:
        return [turn for turn in self.others if turn in self.turns._running]


TestBatcherLife = BatcherLife.TestCase
TestBatcherLife.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
