"""Nothing is lost on the way: no call stays without an answer and no turn on the cores is kept,
whatever fails between the grant of a turn and the answers."""

import asyncio
import concurrent.futures
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from serving.base.counting.counters import BatchCounters
from serving.base.counting.sums import Distribution
from serving.base.errors import DeadlineExpired, EngineError, ModelNotReady
from serving.base.metrics import EngineMetrics
from serving.batching import batcher as batcher_module
from serving.batching.batch import Batch
from serving.batching.batcher import DynamicBatcher
from serving.batching.core_turns import CoreShare, CoreTurns, Turn
from serving.batching.execution import BatchExecution
from serving.batching.latency import LatencyTable
from serving.batching.queue import BatchQueue
from serving.batching.ticket import Answer, State, Ticket
from serving.batching.waiting import Waiting
from serving.repository.model_config import Batching, QueuePolicy
from tests.serving.batching.fake_engine import FakeEngine, answered
from tests.support.stepped_loop import ManualExecutor, SteppedLoop

CORES = 2
ALWAYS = 10**9


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
            assert not batcher._asked | batcher._running
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


@pytest.fixture
def house() -> Iterator[Callable[[], House]]:
    built: list[House] = []

    def build() -> House:
        built.append(House())
        return built[-1]

    yield build
    for one in built:
        one.close()


Plant = Callable[[House, Fuse, pytest.MonkeyPatch], None]


def attribute(find: Callable[[House], list[Any]], name: str) -> Plant:
    """A fuse in one method of some objects or classes."""

    def plant(house: House, fuse: Fuse, patch: pytest.MonkeyPatch) -> None:
        for owner in find(house):
            patch.setattr(owner, name, fuse.wrap(getattr(owner, name)))

    return plant


def of_loop(name: str, callbacks: set[str]) -> Plant:
    """A fuse in a method of the loop, for callbacks of these names only: asyncio's own are not
    ours to guard."""

    def plant(house: House, fuse: Fuse, patch: pytest.MonkeyPatch) -> None:
        original = getattr(house.loop, name)

        def fused(*args: Any, **options: Any) -> Any:
            if callbacks & {getattr(argument, "__name__", "") for argument in args}:
                fuse.burn()
            return original(*args, **options)

        patch.setattr(house.loop, name, fused)

    return plant


def unequal_outputs(house: House, fuse: Fuse, patch: pytest.MonkeyPatch) -> None:
    """Outputs that cannot be cut into rows."""

    class Uncut(np.ndarray[Any, Any]):
        def __getitem__(self, index: Any) -> Any:
            fuse.burn()
            return super().__getitem__(index)

    for engine in house.engines.values():
        infer = engine.infer
        patch.setattr(engine, "infer", lambda inputs, infer=infer: {
            name: array.view(Uncut) for name, array in infer(inputs).items()
        })  # fmt: skip


def engines(house: House) -> list[Any]:
    return list(house.engines.values())


def latencies(house: House) -> list[Any]:
    return list(house.latency.values())


STEPS: dict[str, Plant] = {
    "clock": attribute(lambda house: [house], "clock"),
    "prediction": attribute(latencies, "predict"),
    "prediction at load": attribute(latencies, "at_load"),
    "good size": attribute(latencies, "good_size"),
    "learning from a batch": attribute(latencies, "observe"),
    "turn start": attribute(lambda house: [DynamicBatcher], "_start"),
    "asking for a turn": attribute(lambda house: [house.turns], "ask"),
    "next round": of_loop("call_soon", {"_fill"}),
    "timer": of_loop("call_later", {"_ring"}),
    "handing to the pool": of_loop("run_in_executor", {"_outcome"}),
    "pool": attribute(lambda house: [house.threads], "submit"),
    "company": attribute(lambda house: [batcher_module.QueueDelay], "holds_back"),
    "size": attribute(lambda house: [batcher_module], "rows_to_run"),
    "first in the queue": attribute(lambda house: [BatchQueue], "peek"),
    "taking a batch": attribute(lambda house: [BatchQueue], "pop_batch"),
    "calls that ride": attribute(lambda house: [Waiting], "take"),
    "running": attribute(lambda house: [DynamicBatcher], "_run"),
    "starting the batch": attribute(lambda house: [BatchExecution], "start"),
    "allocation": attribute(engines, "allocate"),
    "gathering": attribute(lambda house: [BatchExecution], "_gather"),
    "engine": attribute(engines, "infer"),
    "cutting outputs": unequal_outputs,
    "handing out answers": attribute(lambda house: [Batch], "answer"),
    "record": attribute(lambda house: [Batch], "record"),
    "batch size metric": attribute(lambda house: [Distribution], "observe"),
    "batch counters": attribute(lambda house: [BatchCounters], "batch_done"),
    "shed metric": attribute(lambda house: [house.metrics.shed], "labels"),
    "cancelled metric": attribute(lambda house: [house.metrics.cancelled], "labels"),
    "shapes": attribute(lambda house: [batcher_module], "row_shapes"),
    "queueing": attribute(lambda house: [BatchQueue], "push"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", [1, 3, ALWAYS], ids=["once", "some times", "from then on"])
def test_failure_at_any_step_loses_no_call_and_no_turn(
    step: str,
    count: int,
    house: Callable[[], House],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL")
    tried = 0
    for after in range(12):
        built, fuse = house(), Fuse(after, count)
        with monkeypatch.context() as patch:
            STEPS[step](built, fuse, patch)
            built.live(fuse)
        built.check_nothing_lost()
        built.check_still_serves()
        if not fuse.went_off:
            break
        tried += 1
    assert tried or step == "allocation"


@pytest.mark.parametrize(
    "failure",
    [
        StopIteration(),
        GeneratorExit(),
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
        asyncio.InvalidStateError(),
        MemoryError(),
    ],
    ids=lambda failure: f"{type(failure).__module__}.{type(failure).__name__}",
)
@pytest.mark.parametrize("name", ["inline", "threaded"])
def test_whatever_an_engine_raises_fails_its_batch_and_nothing_else(
    name: str,
    failure: BaseException,
    house: Callable[[], House],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL")
    built = house()

    def infer(inputs: Any) -> Any:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(built.engines[name], "infer", infer)
        for _ in range(2):
            built.submit(name, built.admit(name))
        built.advance()
        built.advance(0.03)
        built.work()
    for _, task, _ in built.calls:
        assert task.done()
        assert not task.cancelled()
        assert isinstance(task.exception(), Exception)
    built.check_still_serves()


def test_process_can_be_interrupted_while_an_inline_batch_runs(
    house: Callable[[], House], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    built = house()

    def infer(inputs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(built.engines["inline"], "infer", infer)
        built.submit("inline", built.admit("inline"))
        built.advance()
        with pytest.raises(KeyboardInterrupt):
            built.advance(0.03)
    built.advance()
    [(_, task, _)] = built.calls
    assert isinstance(task.exception(), EngineError)
    built.check_still_serves()


def test_work_that_the_pool_drops_fails(
    house: Callable[[], House], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    built = house()
    built.submit("threaded", built.admit("threaded"))
    built.advance()
    built.advance(0.03)
    [(future, _)] = built.threads.work
    built.threads.work.clear()
    assert future.cancel()
    built.advance()
    [(_, task, _)] = built.calls
    assert isinstance(task.exception(), EngineError)
    built.check_still_serves()


def test_model_whose_turn_cannot_start_hits_no_other_and_keeps_no_cores(
    house: Callable[[], House], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    built = house()
    lost: list[BaseException] = []

    def start(turn: Turn) -> None:
        raise Bomb

    other = CoreShare()
    for cores in (0, 1, CORES):
        turn = Turn(other, cores, 0.01, start, lambda turn, error: lost.append(error))
        built.loop.call(lambda turn=turn: built.turns.ask(turn, built.loop.now))
        built.turns.give_back(turn, built.loop.now)
        assert built.turns.free == CORES
    # It waits for the batch of another model, which then gives its cores back.
    built.submit("threaded", built.admit("threaded"))
    built.advance()
    built.advance(0.03)
    built.loop.call(lambda: built.turns.ask(Turn(other, 1, 0.01, start), built.loop.now))
    built.submit("inline", built.admit("inline"))
    built.advance(0.03)
    built.work()
    built.check_nothing_lost()
    assert [type(error) for error in lost] == [Bomb] * 3
    built.check_still_serves()


def test_call_that_cannot_be_queued_gives_its_place_back(house: Callable[[], House]) -> None:
    built = house()
    batcher = built.batchers["threaded"]
    ticket = built.admit("threaded")
    task = built.loop.create_task(answered(batcher, ticket, []))
    built.loop.rounds(3)
    assert isinstance(task.exception(), IndexError)
    assert ticket.state is State.WITHDRAWN
    assert batcher._waiting.idle.is_set()


def batcher_on_threads(engine: FakeEngine, turns: CoreTurns) -> DynamicBatcher:
    return DynamicBatcher(
        engine,
        model="m",
        version="1",
        max_batch_size=1,
        batching=Batching(),
        instances=1,
        latency=LatencyTable({1: 0.001}),
        metrics=EngineMetrics(),
        turns=turns,
        cores=CORES,
    )


async def four_calls(batcher: DynamicBatcher, engine: FakeEngine) -> list[asyncio.Task[Answer]]:
    """One runs until `engine.hold` is set, three wait."""
    engine.hold.clear()
    inputs = {"x": np.ones((1, 2), np.float32)}
    tickets = [batcher.admit(1, 0, math.inf) for _ in range(4)]
    calls = [asyncio.create_task(answered(batcher, ticket, [inputs])) for ticket in tickets]
    while not engine.running:
        await asyncio.sleep(0.001)
    return calls


async def close(batcher: DynamicBatcher) -> None:
    """As the registry does it."""
    await asyncio.get_running_loop().run_in_executor(None, batcher.close)


@pytest.mark.parametrize("cancelled", [False, True], ids=["timed out", "cancelled"])
def test_calls_that_wait_when_a_drain_ends_early_fail_and_the_cores_come_back(
    cancelled: bool,
) -> None:
    async def body() -> None:
        engine, turns = FakeEngine(), CoreTurns(CORES)
        batcher = batcher_on_threads(engine, turns)
        calls = await four_calls(batcher, engine)
        decoding = batcher.admit(1, 0, math.inf)
        if cancelled:
            drain = asyncio.create_task(batcher.drain(10))
            await asyncio.sleep(0)
            drain.cancel()
            await asyncio.wait([drain])
            assert drain.cancelled()
        else:
            assert not await batcher.drain(0.01)
        # Before the threads stop, and though a batch runs.
        waiting = await asyncio.gather(*calls[1:], return_exceptions=True)
        assert [type(error) for error in waiting] == [ModelNotReady] * 3
        with pytest.raises(ModelNotReady):
            await answered(batcher, decoding, [{"x": np.zeros((1, 2), np.float32)}])
        batcher.withdraw(decoding)
        assert engine.running == 1
        engine.hold.set()
        await close(batcher)
        assert (await calls[0]).outputs["y"].tolist() == [[2, 2]]
        assert turns.free == CORES
        assert len(engine.batches) == 1
        # What runs was waited for by a second drain.
        assert await batcher.drain(0)

    asyncio.run(asyncio.wait_for(body(), 20))


def test_calls_that_are_left_when_the_threads_stop_fail() -> None:
    async def body() -> None:
        engine, turns = FakeEngine(), CoreTurns(CORES)
        batcher = batcher_on_threads(engine, turns)
        calls = await four_calls(batcher, engine)
        engine.hold.set()
        await close(batcher)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Answer] + [ModelNotReady] * 3
        assert turns.free == CORES

    asyncio.run(asyncio.wait_for(body(), 20))


def test_no_batch_runs_inline_once_the_engine_may_be_gone(house: Callable[[], House]) -> None:
    built = house()
    built.submit("inline", built.admit("inline"))
    built.advance()
    built.batchers["inline"].close()
    built.advance(0.03)
    [(_, task, _)] = built.calls
    assert isinstance(task.exception(), ModelNotReady)
    assert not built.engines["inline"].batches
    assert built.turns.free == CORES


def test_drain_does_not_wait_for_the_company_of_a_queue_delay(house: Callable[[], House]) -> None:
    built = house()
    for name, batcher in built.batchers.items():
        built.submit(name, built.admit(name))
        built.advance()
        drain = built.loop.create_task(batcher.drain(0.01))
        built.advance()
        built.work()
        assert drain.result()
    built.check_nothing_lost()
